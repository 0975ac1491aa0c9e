"""What each program's stream becomes; the lines were printed by the programs themselves and cut to what counts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from common.agent_output import (
    Asked,
    Began,
    Concluded,
    Event,
    Line,
    Returned,
    Said,
    Spent,
    Used,
    parse_line,
    recognise,
)

CLAUDE: list[tuple[dict[str, Any], list[Event]]] = [
    (
        {"type": "system", "subtype": "init", "session_id": "cfa0", "model": "claude-opus", "tools": ["Bash"]},
        [Began("cfa0", "claude-opus")],
    ),
    ({"type": "system", "subtype": "permission_denied", "tool_name": "Bash"}, []),
    (
        {
            "type": "assistant",
            "message": {
                "content": [
                    {"type": "text", "text": "I look."},
                    {"type": "tool_use", "name": "Bash", "input": {"command": "git  add\n-A", "description": "x"}},
                ]
            },
        },
        [Said("I look."), Used("Bash", "git add -A")],
    ),
    ({"type": "assistant", "message": {"content": "text"}}, []),
    (
        {"type": "user", "message": {"content": [{"type": "tool_result", "content": "no", "is_error": True}]}},
        [Returned("no")],
    ),
    ({"type": "user", "message": {"content": [{"content": [{"text": "x"}], "is_error": True}]}}, [Returned("")]),
    ({"type": "user", "message": {"content": [{"type": "tool_result", "content": "fine"}]}}, []),
    (
        {
            "type": "result",
            "subtype": "success",
            "is_error": False,
            "result": "All done.",
            "num_turns": 3,
            "total_cost_usd": 0.25,
            "usage": {
                "input_tokens": 33,
                "cache_creation_input_tokens": 4,
                "cache_read_input_tokens": 5,
                "output_tokens": 21,
            },
        },
        [Spent(42, 21, 0.25, 3, total=True), Concluded(ok=True, text="All done.")],
    ),
    (
        {"type": "result", "subtype": "success", "is_error": True, "result": "API Error: 400 nope"},
        [Spent(total=True), Concluded(ok=False, text="API Error: 400 nope")],
    ),
    (
        {"type": "result", "subtype": "error_max_turns", "is_error": True, "errors": ["Reached maximum (1)", 3]},
        [Spent(total=True), Concluded(ok=False, text="Reached maximum (1)", reason="turn_limit")],
    ),
    (
        {"type": "result", "subtype": "error_max_budget_usd", "is_error": True},
        [Spent(total=True), Concluded(ok=False, text="error_max_budget_usd", reason="cost_limit")],
    ),
    (
        {
            "type": "result",
            "subtype": "success",
            "usage": {"input_tokens": -1, "output_tokens": True},
            "num_turns": 2.5,
        },
        [Spent(total=True), Concluded(ok=False, text="success")],
    ),
]
CODEX: list[tuple[dict[str, Any], list[Event]]] = [
    ({"type": "thread.started", "thread_id": "01a2"}, [Began("01a2")]),
    ({"type": "turn.started"}, []),
    (
        {
            "type": "item.started",
            "item": {"type": "command_execution", "command": "/bin/bash -lc ls", "exit_code": None},
        },
        [Used("shell", "/bin/bash -lc ls")],
    ),
    ({"type": "item.completed", "item": {"type": "command_execution", "command": "ls", "exit_code": 0}}, []),
    (
        {"type": "item.completed", "item": {"type": "command_execution", "exit_code": 2, "aggregated_output": "no"}},
        [Returned("no")],
    ),
    ({"type": "item.completed", "item": {"type": "command_execution", "exit_code": 3}}, [Returned("exit code 3")]),
    ({"type": "item.completed", "item": {"type": "agent_message", "text": "All done."}}, [Said("All done.")]),
    ({"type": "item.started", "item": {"type": "agent_message", "text": ""}}, []),
    ({"type": "item.completed", "item": {"type": "error", "message": "no metadata"}}, [Returned("no metadata")]),
    (
        {"type": "item.completed", "item": {"type": "file_change", "changes": [{"path": "a.txt", "kind": "add"}, 3]}},
        [Used("edit", "a.txt"), Used("edit", "")],
    ),
    (
        {"type": "item.started", "item": {"type": "mcp_tool_call", "tool": "look", "arguments": {"query": "x"}}},
        [Used("look", "x")],
    ),
    ({"type": "item.updated", "item": {"type": "todo_list"}}, []),
    (
        {"type": "turn.completed", "usage": {"input_tokens": 22, "output_tokens": 14}},
        [Spent(22, 14, turns=1), Concluded(ok=True)],
    ),
    ({"type": "turn.failed", "error": {"message": "nope"}}, [Concluded(ok=False, text="nope")]),
    ({"type": "error", "message": "nope"}, [Concluded(ok=False, text="nope")]),
]
GEMINI: list[tuple[dict[str, Any], list[Event]]] = [
    ({"type": "init", "session_id": "s", "model": "gemini-x"}, [Began("s", "gemini-x")]),
    ({"type": "message", "role": "user", "content": "work"}, []),
    ({"type": "message", "role": "assistant", "content": "I ", "delta": True}, [Said("I ", piece=True)]),
    ({"type": "message", "role": "assistant", "content": "look."}, [Said("look.")]),
    ({"type": "tool_use", "tool_name": "read_file", "parameters": {"path": "a"}}, [Used("read_file", "a")]),
    ({"type": "tool_use", "parameters": {}}, [Used("tool", "{}")]),
    ({"type": "tool_result", "status": "success", "output": "x"}, []),
    ({"type": "tool_result", "status": "error", "error": {"message": "no"}}, [Returned("no")]),
    ({"type": "tool_result", "status": "error", "output": "not found"}, [Returned("not found")]),
    ({"type": "tool_result", "status": "error"}, [Returned("")]),
    ({"type": "error", "severity": "warning", "message": "loop"}, [Returned("loop")]),
    (
        {"type": "result", "status": "success", "stats": {"input_tokens": 5, "output_tokens": 6}},
        [Spent(5, 6, turns=1, total=True), Concluded(ok=True)],
    ),
    (
        {"type": "result", "status": "error", "error": {"type": "FatalTurnLimitedError", "message": "turns"}},
        [Spent(turns=1, total=True), Concluded(ok=False, text="turns", reason="turn_limit")],
    ),
]
OPENCODE: list[tuple[dict[str, Any], list[Event]]] = [
    ({"type": "step_start", "sessionID": "ses_1", "part": {}}, [Began("ses_1")]),
    ({"type": "text", "sessionID": "ses_1", "part": {"text": "I look."}}, [Said("I look.")]),
    ({"type": "text", "sessionID": "ses_1", "part": {}}, []),
    (
        {"type": "tool_use", "part": {"tool": "read", "state": {"status": "completed", "input": {"filePath": "a"}}}},
        [Used("read", "a")],
    ),
    (
        {"type": "tool_use", "part": {"state": {"status": "error", "error": "no"}}},
        [Used("tool", "null"), Returned("no")],
    ),
    ({"type": "tool_use", "part": {"tool": "x", "state": {"status": "error"}}}, [Used("x", "null"), Returned("")]),
    (
        {
            "type": "step_finish",
            "part": {
                "reason": "tool-calls",
                "cost": 0.5,
                "tokens": {"input": 1, "output": 2, "cache": {"read": 3, "write": 4}},
            },
        },
        [Spent(8, 2, 0.5, turns=1)],
    ),
    ({"type": "step_finish", "part": {"reason": "stop", "cost": True}}, [Spent(turns=1), Concluded(ok=True)]),
    (
        {"type": "error", "sessionID": "s", "error": {"name": "APIError", "data": {"message": "nope"}}},
        [Concluded(ok=False, text="nope")],
    ),
    ({"type": "error", "error": {"message": "bad"}}, [Concluded(ok=False, text="bad")]),
    ({"type": "error", "error": {"name": "APIError"}}, [Concluded(ok=False, text="APIError")]),
    ({"type": "error", "message": "rate limit"}, [Concluded(ok=False, text="rate limit")]),
]
AIDER: list[tuple[dict[str, Any], list[Event]]] = [
    ({"event": "launched", "properties": {}, "user_id": "59f0", "time": 1}, [Began("59f0")]),
    ({"event": "repo", "properties": {"num_files": 3}, "user_id": "59f0"}, []),
    ({"event": "message_send_starting", "properties": {}, "user_id": "59f0"}, [Asked()]),
    (
        {
            "event": "message_send",
            "properties": {"prompt_tokens": 11, "completion_tokens": 7, "cost": 0.25, "total_cost": 0.5},
            "user_id": "59f0",
        },
        [Spent(11, 7, 0.25, 1), Concluded(ok=True)],
    ),
    (
        {
            "event": "message_send",
            "properties": {"prompt_tokens": 11, "completion_tokens": 7, "cost": 0.0},
            "user_id": "a",
        },
        [Spent(11, 7, None, 1), Concluded(ok=True)],
    ),
    ({"event": "message_send", "user_id": "59f0"}, [Spent(turns=1), Concluded(ok=True)]),
    (
        {"event": "message_send_exception", "properties": {"exception": "No data"}, "user_id": "59f0"},
        [Concluded(ok=False, text="No data")],
    ),
    ({"event": "exit", "properties": {"reason": "Completed --message-file"}, "user_id": "59f0"}, []),
]

TABLE = {"aider": AIDER, "claude": CLAUDE, "codex": CODEX, "gemini": GEMINI, "opencode": OPENCODE}
CASES = [
    pytest.param(name, said, events, id=f"{name} {number}")
    for name, rows in TABLE.items()
    for number, (said, events) in enumerate(rows)
]


@pytest.mark.parametrize(("dialect", "said", "events"), CASES)
def test_what_is_said(dialect: str, said: dict[str, Any], events: list[Event]) -> None:
    assert parse_line(dialect, json.dumps(said).encode()) == events


@pytest.mark.parametrize("dialect", [name for name in TABLE if name != "aider"])  # whose model speaks in plain text
@pytest.mark.parametrize(
    "line",
    [
        '{"type":"something new","x":1}',
        '{"type":3}',
        "{}",
        "[1]",
        "{broken",
        "plain text",
        "",
        '{"a":' * 100_000,
        pytest.param('{"type":"result","text":"' + "x" * (1024 * 1024) + '"}', id="too long"),
    ],
)
def test_what_is_not_understood_is_kept_as_a_line(dialect: str, line: str) -> None:
    assert parse_line(dialect, line.encode()) == [Line(line)]


def test_without_a_dialect_everything_is_a_line() -> None:
    assert parse_line("plain", b'{"type":"result"}\r') == [Line('{"type":"result"}')]
    assert parse_line("plain", b"\xff\x1b[31m") == [Line("\N{REPLACEMENT CHARACTER}\x1b[31m")]


@pytest.mark.parametrize("dialect", TABLE)
def test_the_first_object_tells_the_dialect(dialect: str) -> None:
    first, *others = [json.dumps(said).encode() for said, _ in TABLE[dialect]]
    assert recognise(first) == dialect
    assert {recognise(line) for line in others} <= {None, dialect}


@pytest.mark.parametrize("line", [b"", b"hello", b"{}", b'{"type":"init"}', b"{" + b" " * 1024 * 1024 + b"}"])
def test_other_lines_tell_none(line: bytes) -> None:
    assert recognise(line) is None


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"other": "a", "file_path": "b"}, "b"),
        ({"other": "a"}, '{"other": "a"}'),
        (["a"], '["a"]'),
        ({"command": "x" * 400}, "x" * 299 + "…"),
    ],
)
def test_a_tool_in_one_line(arguments: object, text: str) -> None:
    said = {"type": "assistant", "message": {"content": [{"name": "T", "input": arguments}]}}
    assert parse_line("claude", json.dumps(said).encode()) == [Used("T", text)]


@pytest.mark.parametrize("amount", ["1", -1, True, None, float("inf")])
def test_what_is_no_amount_is_none(amount: object) -> None:
    said = json.dumps({"type": "result", "total_cost_usd": amount}).encode()
    (spent, _) = parse_line("claude", said)
    assert spent == Spent(total=True)


@pytest.mark.parametrize(
    ("line", "event"),
    [
        ("I look.", Said("I look.\n", piece=True)),
        ('{"a": "file of JSON"}', Said('{"a": "file of JSON"}\n', piece=True)),
        ("Only 3 reflections allowed, stopping.", Concluded(ok=False, text="Only 3 reflections allowed, stopping.")),
        ("Model gpt-4o has hit a token limit!", Concluded(ok=False, text="Model gpt-4o has hit a token limit!")),
        ('"Only 3 reflections allowed, stopping." is no end', None),
    ],
)
def test_the_plain_text_of_aider_is_what_it_says(line: str, event: Event | None) -> None:
    assert parse_line("aider", line.encode()) == [event or Said(f"{line}\n", piece=True)]
