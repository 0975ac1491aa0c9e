"""The vocabulary, and reading what a program may have written wrongly: each reader returns something usable."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

_ABOUT_MAX: Final = 300
_MAX_COUNT: Final = 2**53 - 1
_TELLING: Final = ("command", "cmd", "file_path", "path", "filePath", "pattern", "query", "url", "description")


@dataclass(frozen=True, slots=True)
class Began:
    """The program runs; `session` is what it can be resumed by."""

    session: str | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """The model is asked: what was said and concluded before is past."""


@dataclass(frozen=True, slots=True)
class Said:
    """Text of the model; a `piece` continues the one before."""

    text: str
    piece: bool = False


@dataclass(frozen=True, slots=True)
class Used:
    """The model used a tool; `about` is one line of what for."""

    tool: str
    about: str


@dataclass(frozen=True, slots=True)
class Returned:
    """A tool failed; `text` is what the model was told."""

    text: str


@dataclass(frozen=True, slots=True)
class Spent:
    """Tokens, dollars and turns; a `total` replaces what was told before, anything else adds to it."""

    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float | None = None
    turns: int = 0
    total: bool = False


@dataclass(frozen=True, slots=True)
class Concluded:
    """The program's own word on how it went; `reason` is a code where it tells more than `agent_error`."""

    ok: bool
    text: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """A line that is no event, as it came."""

    text: str


Event = Began | Asked | Said | Used | Returned | Spent | Concluded | Line


def text_of(value: object) -> str | None:
    """Return text, None for anything else."""
    return value if isinstance(value, str) else None


def object_of(value: object) -> Mapping[str, Any]:
    """Return an object, an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def list_of(value: object) -> list[Any]:
    """Return a list, an empty one for anything else."""
    return value if isinstance(value, list) else []


def count_of(value: object) -> int:
    """Return a count, 0 for anything else."""
    return value if type(value) is int and 0 <= value <= _MAX_COUNT else 0


def dollars_of(value: object) -> float | None:
    """Return an amount, None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value < math.inf else None


def about(arguments: object) -> str:
    """Return one line of what a tool was used for: the argument that tells most, or all of them."""
    known = object_of(arguments)
    telling = next((text for name in _TELLING if (text := text_of(known.get(name)))), None)
    text = json.dumps(arguments, ensure_ascii=False) if telling is None else telling
    line = " ".join(text.split())
    return line if len(line) <= _ABOUT_MAX else line[: _ABOUT_MAX - 1] + "…"
