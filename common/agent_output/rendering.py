"""A log for people: the events of a program that is known, everything else as it came. Escaping is the printer's."""

from __future__ import annotations

from codecs import getincrementaldecoder
from typing import Final

from common.agent_output.events import Asked, Began, Concluded, Event, Returned, Said, Spent, Used
from common.agent_output.lines import LONGEST_LINE, PLAIN, parse_line, recognise

_RETURNED_MAX: Final = 500
_INDENT_MAX: Final = 64


def render(event: Event) -> str:
    """Return the text of one event, lines with their ends; empty for what people need not see."""
    match event:
        case Began(session=session, model=model):
            return f"[{', '.join(filter(None, ('session ' + session if session else None, model))) or 'begun'}]\n"
        case Asked():
            return ""
        case Said(text=text, piece=piece):
            return text if piece else f"{text}\n"
        case Used(tool=tool, about=about):
            return f"> {tool}: {about}\n"
        case Returned(text=text):
            return f"! {' '.join(text.split())[:_RETURNED_MAX]}\n"
        case Spent(input_tokens=read, output_tokens=written, cost_usd=cost):
            price = "" if cost is None else f", ${cost:.4f}"
            return f"[{read} tokens in, {written} out{price}]\n"
        case Concluded(ok=ok, text=text):
            return f"[{'done' if ok else 'failed'}{': ' + text if text and not ok else ''}]\n"
    return f"{event.text}\n"


class Rendering:
    """Renders a log that comes in chunks; its dialect is what its first JSON object says.

    Only what may be an object is held until its line is whole, at most 1 MiB. Everything else is shown as it comes: a
    line without an end is seen while it is written, and one of any length takes no memory.
    """

    def __init__(self) -> None:
        self._dialect: str | None = None
        self._held = bytearray()
        self._passing: _Passing | None = None

    def feed(self, chunk: bytes) -> str:
        """Return the text of what can be shown now."""
        *parts, rest = chunk.split(b"\n")
        return "".join([self._take(part) + self._end_line() for part in parts]) + self._take(rest)

    def flush(self) -> str:
        """Return the text of a last line without an end."""
        return self._end_line(end="") if self._held or self._passing else ""

    def _take(self, part: bytes) -> str:
        if self._passing is None:
            self._held += part
            if len(self._held) <= LONGEST_LINE and _may_be_object(self._held):
                return ""
            self._passing, part = _Passing(), bytes(self._held)
            self._held.clear()
        return self._passing.feed(part)

    def _end_line(self, end: str = "\n") -> str:
        if self._passing is not None:
            text, self._passing = self._passing.flush(), None
            return text + end
        line = bytes(self._held)
        self._held.clear()
        if self._dialect is None:
            self._dialect = recognise(line)
        return "".join(map(render, parse_line(self._dialect or PLAIN, line)))


class _Passing:
    """Text of one line as it comes; a character or a line's end that lies across two chunks stays whole."""

    def __init__(self) -> None:
        self._decoder = getincrementaldecoder("utf-8")("replace")
        self._returned = False

    def feed(self, part: bytes) -> str:
        text = ("\r" if self._returned else "") + self._decoder.decode(part)
        # Before the line's end it is part of that; anywhere else it comes with the next text.
        self._returned = text.endswith("\r")
        return text.removesuffix("\r")

    def flush(self) -> str:
        rest = self._decoder.decode(b"", final=True)
        return "\r" + rest if self._returned and rest else rest


def _may_be_object(line: bytearray) -> bool:
    begin = line[:_INDENT_MAX].lstrip()
    return begin.startswith(b"{") if begin else len(line) < _INDENT_MAX
