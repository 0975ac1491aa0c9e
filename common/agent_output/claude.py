"""Claude Code, `--output-format stream-json --verbose` (checked with 2.1.332)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

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
    list_of,
    object_of,
    text_of,
)

TURN_END: Final = "result"
_REASONS: Final = {"error_max_turns": "turn_limit", "error_max_budget_usd": "cost_limit"}


def recognise(said: Mapping[str, Any]) -> bool:
    """Whether this is the first thing that the program says."""
    return said.get("type") == "system" and said.get("subtype") == "init"


def read(said: Mapping[str, Any]) -> Iterator[Event] | None:
    """Return the events of one object, None for one that is not understood."""
    match said.get("type"):
        case "system":
            return _system(said)
        case "assistant":
            return _assistant(said)
        case "user":
            return _user(said)
        case "result":
            return _result(said)
        case _:
            return None


def _system(said: Mapping[str, Any]) -> Iterator[Event]:
    if said.get("subtype") == "init":
        yield Began(text_of(said.get("session_id")), text_of(said.get("model")))


def _content(said: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    return map(object_of, list_of(object_of(said.get("message")).get("content")))


def _assistant(said: Mapping[str, Any]) -> Iterator[Event]:
    for block in _content(said):
        if text := text_of(block.get("text")):
            yield Said(text)
        if tool := text_of(block.get("name")):
            yield Used(tool, about(block.get("input")))


def _user(said: Mapping[str, Any]) -> Iterator[Event]:
    for block in _content(said):
        if block.get("is_error") is True:
            yield Returned(text_of(block.get("content")) or "")


def _result(said: Mapping[str, Any]) -> Iterator[Event]:
    usage = object_of(said.get("usage"))
    cached = count_of(usage.get("cache_creation_input_tokens")) + count_of(usage.get("cache_read_input_tokens"))
    yield Spent(
        input_tokens=count_of(usage.get("input_tokens")) + cached,
        output_tokens=count_of(usage.get("output_tokens")),
        cost_usd=dollars_of(said.get("total_cost_usd")),
        turns=count_of(said.get("num_turns")),
        total=True,
    )
    # An API error is told as a success with `is_error`: only both together are one.
    subtype, text = text_of(said.get("subtype")), text_of(said.get("result"))
    ok = subtype == "success" and said.get("is_error") is False
    problem = "; ".join(filter(None, map(text_of, list_of(said.get("errors")))))
    yield Concluded(ok, text or problem or (None if ok else subtype), None if ok else _REASONS.get(subtype or ""))
