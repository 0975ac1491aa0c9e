"""Codex, `codex exec --json` (checked with 0.169.0)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from common.agent_output.events import (
    Began,
    Concluded,
    Event,
    Returned,
    Said,
    Spent,
    Used,
    about,
    count_of,
    list_of,
    object_of,
    text_of,
)


def recognise(said: Mapping[str, Any]) -> bool:
    """Whether this is the first thing that the program says."""
    return said.get("type") == "thread.started"


def read(said: Mapping[str, Any]) -> Iterator[Event] | None:
    """Return the events of one object, None for one that is not understood."""
    match said.get("type"):
        case "thread.started":
            return iter([Began(text_of(said.get("thread_id")))])
        case "turn.started":
            return iter(())
        case "turn.completed":
            return _completed(said)
        case "turn.failed":
            return iter([Concluded(ok=False, text=text_of(object_of(said.get("error")).get("message")))])
        case "error":
            return iter([Concluded(ok=False, text=text_of(said.get("message")))])
        case "item.started" | "item.updated" | "item.completed":
            return _item(object_of(said.get("item")), done=said["type"] == "item.completed")
        case _:
            return None


def _completed(said: Mapping[str, Any]) -> Iterator[Event]:
    usage = object_of(said.get("usage"))
    yield Spent(count_of(usage.get("input_tokens")), count_of(usage.get("output_tokens")), turns=1)
    yield Concluded(ok=True)


def _item(item: Mapping[str, Any], *, done: bool) -> Iterator[Event]:
    kind, text = item.get("type"), text_of(item.get("text"))
    if kind == "command_execution" and not done:
        yield Used("shell", about(item))
    elif kind == "command_execution" and item.get("exit_code") not in (0, None):
        yield Returned(text_of(item.get("aggregated_output")) or f"exit code {item['exit_code']}")
    elif kind == "agent_message" and done and text:
        yield Said(text)
    elif kind == "error" and done:
        yield Returned(text_of(item.get("message")) or "")
    elif kind == "file_change" and done:
        for change in map(object_of, list_of(item.get("changes"))):
            yield Used("edit", text_of(change.get("path")) or "")
    elif kind == "mcp_tool_call" and not done:
        yield Used(text_of(item.get("tool")) or "mcp", about(item.get("arguments")))
