"""OpenCode, `opencode run --format json`."""

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
    dollars_of,
    object_of,
    text_of,
)


def recognise(said: Mapping[str, Any]) -> bool:
    """Whether this is the first thing that the program says."""
    return "sessionID" in said and said.get("type") in {"step_start", "error"}


def read(said: Mapping[str, Any]) -> Iterator[Event] | None:
    """Return the events of one object, None for one that is not understood."""
    part = object_of(said.get("part"))
    match said.get("type"):
        case "step_start":
            return iter([Began(text_of(said.get("sessionID")))])
        case "text":
            return iter([Said(text)] if (text := text_of(part.get("text"))) else ())
        case "tool_use":
            return _tool(part)
        case "step_finish":
            return _finish(part)
        case "error":
            return _error(said)
        case _:
            return None


def _tool(part: Mapping[str, Any]) -> Iterator[Event]:
    state = object_of(part.get("state"))
    yield Used(text_of(part.get("tool")) or "tool", about(state.get("input")))
    if state.get("status") == "error":
        yield Returned(text_of(state.get("error")) or "")


def _finish(part: Mapping[str, Any]) -> Iterator[Event]:
    tokens = object_of(part.get("tokens"))
    cached = object_of(tokens.get("cache"))
    read_tokens = count_of(tokens.get("input")) + count_of(cached.get("read")) + count_of(cached.get("write"))
    yield Spent(read_tokens, count_of(tokens.get("output")), dollars_of(part.get("cost")), turns=1)
    if part.get("reason") == "stop":
        yield Concluded(ok=True)


def _error(said: Mapping[str, Any]) -> Iterator[Event]:
    error = object_of(said.get("error"))
    message = text_of(object_of(error.get("data")).get("message")) or text_of(error.get("message"))
    yield Concluded(ok=False, text=message or text_of(error.get("name")) or text_of(said.get("message")))
