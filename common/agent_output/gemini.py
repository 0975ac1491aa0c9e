"""Gemini CLI, `--output-format stream-json`."""

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
    object_of,
    text_of,
)


def recognise(said: Mapping[str, Any]) -> bool:
    """Whether this is the first thing that the program says."""
    return said.get("type") == "init" and "session_id" in said


def read(said: Mapping[str, Any]) -> Iterator[Event] | None:
    """Return the events of one object, None for one that is not understood."""
    match said.get("type"):
        case "init":
            return iter([Began(text_of(said.get("session_id")), text_of(said.get("model")))])
        case "message":
            return _message(said)
        case "tool_use":
            return iter([Used(text_of(said.get("tool_name")) or "tool", about(said.get("parameters")))])
        case "tool_result":
            return _returned(said)
        case "error":
            return iter([Returned(text_of(said.get("message")) or "")])
        case "result":
            return _result(said)
        case _:
            return None


def _message(said: Mapping[str, Any]) -> Iterator[Event]:
    text = text_of(said.get("content"))
    if said.get("role") == "assistant" and text:
        yield Said(text, piece=said.get("delta") is True)


def _returned(said: Mapping[str, Any]) -> Iterator[Event]:
    if said.get("status") == "error":
        yield Returned(text_of(object_of(said.get("error")).get("message")) or text_of(said.get("output")) or "")


def _result(said: Mapping[str, Any]) -> Iterator[Event]:
    stats = object_of(said.get("stats"))
    tokens = count_of(stats.get("input_tokens")), count_of(stats.get("output_tokens"))
    yield Spent(*tokens, turns=1, total=True)
    error = object_of(said.get("error"))
    ok = said.get("status") == "success"
    reason = "turn_limit" if error.get("type") == "FatalTurnLimitedError" else None
    yield Concluded(ok, None if ok else text_of(error.get("message")), reason)
