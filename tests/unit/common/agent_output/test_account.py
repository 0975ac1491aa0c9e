from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.agent_output import (
    DIALECTS,
    Account,
    Asked,
    Began,
    Concluded,
    Conclusion,
    Event,
    Line,
    Lines,
    Rendering,
    Returned,
    Said,
    Spent,
    Usage,
    Used,
    account_for,
    render,
)


def account_of(*events: Event) -> Account:
    account = Account()
    for event in events:
        account.take(event)
    return account


@pytest.mark.parametrize(
    ("events", "conclusion"),
    [
        pytest.param([], (False, "the program ended without a word on how it went", "agent_error"), id="nothing"),
        pytest.param([Said("half")], (False, "half", "agent_error"), id="no conclusion"),
        pytest.param([Concluded(ok=True, text="done")], (True, "done", None), id="done"),
        pytest.param([Said("all"), Concluded(ok=True)], (True, "all", None), id="the last it said"),
        pytest.param([Said("a"), Said("b"), Concluded(ok=True)], (True, "b", None), id="only the last"),
        pytest.param(
            [Said("old"), Said("a", piece=False), Said("b", piece=True), Concluded(ok=True)],
            (True, "ab", None),
            id="in pieces",
        ),
        pytest.param([Concluded(ok=True), Concluded(ok=False, text="no")], (False, "no", "agent_error"), id="the last"),
        pytest.param(
            [Said("a"), Concluded(ok=True), Asked(), Said("b\n", piece=True)],
            (False, "b", "agent_error"),
            id="asked again",
        ),
        pytest.param([Concluded(ok=False, reason="turn_limit")], (False, None, "turn_limit"), id="with a reason"),
        pytest.param([Used("a", "b"), Returned("c"), Line("d"), Concluded(ok=True)], (True, None, None), id="others"),
    ],
)
def test_the_program_s_own_word(events: list[Event], conclusion: tuple[bool, str | None, str | None]) -> None:
    assert account_of(*events).conclusion() == Conclusion(*conclusion)


def test_what_is_kept_is_bounded() -> None:
    account = account_of(*(Said("x" * 1000, piece=True) for _ in range(1000)), Concluded(ok=True))
    text = account.conclusion().text
    assert text is not None
    assert len(text) == 64 * 1024


def test_usage_adds_up_or_is_a_total() -> None:
    assert account_of().usage is None
    assert account_of(Spent(1, 2, None, 1), Spent(3, 4, 0.5, 1), Spent(1, 1, 0.25, 1)).usage == Usage(5, 7, 0.75, 3)
    usage = account_of(Spent(1, 2, 9.0, 1), Spent(3, 4, 0.5, 2, total=True)).usage
    assert usage is not None
    assert usage.to_json() == {"inputTokens": 3, "outputTokens": 4, "costUsd": 0.5, "turns": 2}


def test_the_last_session_counts() -> None:
    assert account_of(Began("a"), Began(None), Began("b"), Began(None)).session == "b"


def log(*said: dict[str, Any] | str) -> bytes:
    return b"".join((each if isinstance(each, str) else json.dumps(each)).encode() + b"\n" for each in said)


LOG = log(
    "warming up",
    {"type": "system", "subtype": "init", "session_id": "s1", "model": "m"},
    {"type": "assistant", "message": {"content": [{"type": "text", "text": "Grüße"}]}},
    {"type": "assistant", "message": {"content": [{"name": "Bash", "input": {"command": "ls"}}]}},
    {"type": "user", "message": {"content": [{"content": "no\nway", "is_error": True}]}},
    {"type": "result", "subtype": "success", "is_error": False, "result": "done", "total_cost_usd": 0.5},
)
RENDERED = """warming up
[session s1, m]
Grüße
> Bash: ls
! no way
[0 tokens in, 0 out, $0.5000]
[done]
"""


@pytest.mark.parametrize("size", [1, 3, 1000, 100_000])
@pytest.mark.parametrize("end", [b"", b"the end"])
def test_a_log_is_read_in_any_chunks(size: int, end: bytes) -> None:
    whole = LOG + end
    chunks = [whole[at : at + size] for at in range(0, len(whole), size)]
    account = account_for("claude", chunks)
    assert (account.session, account.conclusion().text) == ("s1", "done")
    rendering = Rendering()
    text = "".join(map(rendering.feed, chunks)) + rendering.flush()
    assert text == RENDERED + end.decode()


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (Began(), "[begun]\n"),
        (Began("s"), "[session s]\n"),
        (Asked(), ""),
        (Said("a", piece=True), "a"),
        (Spent(1, 2), "[1 tokens in, 2 out]\n"),
        (Concluded(ok=False), "[failed]\n"),
        (Concluded(ok=False, text="why"), "[failed: why]\n"),
        (Returned("x" * 1000), "! " + "x" * 500 + "\n"),
    ],
)
def test_events_as_text(event: Event, text: str) -> None:
    assert render(event) == text


def test_of_a_line_without_an_end_only_a_part_is_kept() -> None:
    lines = Lines()
    for _ in range(200):
        assert list(lines.feed(b"x" * 100_000)) == []
    (line,) = lines.feed(b"\n")
    assert len(line) == 1024 * 1024 + 1
    assert list(lines.flush()) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NAMES = ("type", "subtype", "message", "content", "item", "part", "state", "error", "usage", "stats", "tokens", "data")
TYPES = (
    "result",
    "assistant",
    "user",
    "system",
    "item.completed",
    "turn.completed",
    "error",
    "tool_use",
    "step_finish",
)


@given(st.sampled_from(sorted(DIALECTS)), st.dictionaries(st.sampled_from(NAMES), JSON), st.sampled_from(TYPES))
def test_nothing_that_a_program_says_is_fatal(dialect: str, said: dict[str, Any], kind: str) -> None:
    account = account_for(dialect, [json.dumps({**said, "type": kind}).encode()])
    assert isinstance(account.conclusion(), Conclusion)


@given(st.sampled_from(sorted(DIALECTS)), st.binary())
def test_no_bytes_are_fatal(dialect: str, raw: bytes) -> None:
    assert isinstance(account_for(dialect, [raw]).conclusion(), Conclusion)
