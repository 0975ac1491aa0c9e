"""Aider, `--analytics-log /dev/stdout --no-stream --no-pretty` (checked with 0.86.2): events between plain text.

It exits 0 after an error of the API. What tells is its log of events, which it also writes when it sends them nowhere:
a message that was answered is followed by `message_send`, one that was not by nothing. Where it gave up after an
answer there is no event, and a line of text must do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from common.agent_output.events import (
    Asked,
    Began,
    Concluded,
    Event,
    Said,
    Spent,
    count_of,
    dollars_of,
    object_of,
    text_of,
)

_GAVE_UP: Final = re.compile(r"Only \d+ reflections allowed, stopping\.|Model \S+ has hit a token limit!")


def recognise(said: Mapping[str, Any]) -> bool:
    """Whether this is the first event that the program writes."""
    return said.get("event") == "launched" and "user_id" in said


def read(said: Mapping[str, Any]) -> Iterator[Event] | None:
    """Return the events of one object, None for one that is not understood."""
    if "event" not in said or "user_id" not in said:
        return None
    properties = object_of(said.get("properties"))
    match said["event"]:
        case "launched":
            # The id is that of its home, in which it also finds the conversation again.
            return iter([Began(text_of(said["user_id"]))])
        case "message_send_starting":
            return iter([Asked()])
        case "message_send":
            return _answered(properties)
        case "message_send_exception":
            return iter([Concluded(ok=False, text=text_of(properties.get("exception")))])
        case _:
            return iter(())


def read_text(line: str) -> Event:
    """Return the event of a line of plain text: what the model says, or what Aider adds to it."""
    return Concluded(ok=False, text=line) if _GAVE_UP.fullmatch(line.strip()) else Said(f"{line}\n", piece=True)


def _answered(properties: Mapping[str, Any]) -> Iterator[Event]:
    tokens = count_of(properties.get("prompt_tokens")), count_of(properties.get("completion_tokens"))
    # A model whose price it does not know costs nothing in its eyes.
    yield Spent(*tokens, cost_usd=dollars_of(properties.get("cost")) or None, turns=1)
    yield Concluded(ok=True)
