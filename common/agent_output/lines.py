"""From bytes to lines to events, in any chunks; and which dialect a log is in."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from common.agent_output import aider, claude, codex, gemini, opencode
from common.agent_output.events import Event, Line

LONGEST_LINE: Final = 1024 * 1024


class Dialect(NamedTuple):
    """How one program's objects are read, how its first one is recognised, and what its other lines are."""

    read: Callable[[Mapping[str, Any]], Iterator[Event] | None]
    recognise: Callable[[Mapping[str, Any]], bool]
    read_text: Callable[[str], Event] = Line


DIALECTS: Final[Mapping[str, Dialect]] = MappingProxyType(
    {
        "aider": Dialect(aider.read, aider.recognise, aider.read_text),
        "claude": Dialect(claude.read, claude.recognise),
        "codex": Dialect(codex.read, codex.recognise),
        "gemini": Dialect(gemini.read, gemini.recognise),
        "opencode": Dialect(opencode.read, opencode.recognise),
    }
)
PLAIN: Final = "plain"
"""Output without a dialect: every line is a `Line`."""
_UNKNOWN: Final = Dialect(lambda _: None, lambda _: False)


def _object(line: bytes) -> dict[str, Any] | None:
    if not line.lstrip().startswith(b"{"):
        return None
    try:
        said = json.loads(line.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) else None


def parse_line(dialect: str, line: bytes) -> list[Event]:
    """Return the events of one line without its end; a line that is none is mostly a `Line`. Never raises."""
    known = DIALECTS.get(dialect, _UNKNOWN)
    said = _object(line) if len(line) <= LONGEST_LINE else None
    events = None if said is None else known.read(said)
    return [known.read_text(line.decode("utf-8", "replace").rstrip("\r"))] if events is None else list(events)


def recognise(line: bytes) -> str | None:
    """Return the dialect whose first line this is, None for none."""
    said = _object(line) if len(line) <= LONGEST_LINE else None
    if said is None:
        return None
    return next((name for name, dialect in DIALECTS.items() if dialect.recognise(said)), None)


class Lines:
    """Cuts a stream of bytes into lines; of one that is too long only the first 1 MiB is kept."""

    def __init__(self) -> None:
        self._line = bytearray()

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Return the lines that are whole now, without their ends."""
        *ends, rest = chunk.split(b"\n")
        for part in ends:
            self._take(part)
            yield bytes(self._line)
            self._line.clear()
        self._take(rest)

    def flush(self) -> Iterator[bytes]:
        """Return the last line when it has no end."""
        if self._line:
            yield bytes(self._line)
            self._line.clear()

    def _take(self, part: bytes) -> None:
        # One byte more than the longest, so that a cut line cannot pass for a whole one.
        self._line += part[: LONGEST_LINE + 1 - len(self._line)]
