"""A log for people: the events of a program that is known, everything else as it came. Escaping is the printer's."""

from __future__ import annotations

from typing import Final

from common.agent_output.events import Began, Concluded, Event, Returned, Said, Spent, Used
from common.agent_output.lines import PLAIN, Lines, parse_line, recognise

_RETURNED_MAX: Final = 500


def render(event: Event) -> str:
    """Return the text of one event, lines with their ends; empty for what people need not see."""
    match event:
        case Began(session=session, model=model):
            return f"[{', '.join(filter(None, ('session ' + session if session else None, model))) or 'begun'}]\n"
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
    """Renders a log that comes in chunks; its dialect is what its first JSON object says."""

    def __init__(self) -> None:
        self._lines = Lines()
        self._dialect: str | None = None

    def feed(self, chunk: bytes) -> str:
        """Return the text of the lines that are whole now."""
        return "".join(map(self._line, self._lines.feed(chunk)))

    def flush(self) -> str:
        """Return the text of a last line without an end."""
        return "".join(map(self._line, self._lines.flush()))

    def _line(self, line: bytes) -> str:
        if self._dialect is None:
            self._dialect = recognise(line)
        return "".join(map(render, parse_line(self._dialect or PLAIN, line)))
