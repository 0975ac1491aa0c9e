"""Logging: one canonical line per request and per command, on stderr; console on a terminal, JSON otherwise.

Whatever a peer or an agent named is escaped before it is shown (attack row 56): control characters, escape sequences
and the bidirectional overrides that make a line read as another.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, TextIO

_encode: Final = json.JSONEncoder(default=repr).encode
_ROWS: Final = "rows"


def escape(text: str) -> str:
    r"""Return `text` on one line with everything unprintable as `\xNN` or `\uNNNN`; a backslash stays one."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _escape_values(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    if all(value.isprintable() for value in event.values() if isinstance(value, str)):
        return event
    return {key: _escape_value(key, value) for key, value in event.items()}


def _escape_value(key: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if key == "exception":
        # A traceback keeps its lines, indented: an exception may quote what looks like a line of ours.
        return "\n".join(f"  {escape(line)}" for line in value.split("\n"))
    return escape(value)


def _to_json(event: MutableMapping[str, Any], **_options: Any) -> str:
    rows = event.get(_ROWS)
    return rows.to_json(event) if isinstance(rows, _Rows) else _encode(event)


def _for_terminal(render: Callable[..., Any]) -> Callable[..., str]:
    """Return what renders every row of an event as `render` does a line."""

    def rendered(logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
        rows = event.get(_ROWS)
        lines = rows.events(event) if isinstance(rows, _Rows) else (event,)
        return "\n".join(render(logger, method, line) for line in lines)

    return rendered


class _Encoded(dict[str | None, str]):
    """Texts as JSON, each encoded the first time that it is asked for."""

    def __missing__(self, text: str | None) -> str:
        self[text] = encoded = "null" if text is None else _encode(escape(text))
        return encoded


@dataclass(frozen=True, slots=True)
class _Rows:
    """What differs between the lines of one event: each row has a value for each of the names."""

    names: Sequence[str]
    rows: Sequence[Sequence[str | None]]

    def events(self, event: MutableMapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Return each line's event, with what it alone has where all of them stand in `event`."""
        before, after = self._shared(event)
        for row in self.rows:
            own = zip(self.names, row, strict=True)
            yield {**before, **{name: value and escape(value) for name, value in own}, **after}

    def to_json(self, event: MutableMapping[str, Any]) -> str:
        """Return what `events` would be as JSON, a line for each; what they share is encoded once."""
        before, after = self._shared(event)
        own = ", ".join(f'"{name}": %s' for name in self.names)
        head = _encode(before)[:-1] + (", " if before else "")
        tail = ", " + _encode(after)[1:]
        encoded = _Encoded()
        return "\n".join([head + own % tuple(map(encoded.__getitem__, row)) + tail for row in self.rows])

    def _shared(self, event: MutableMapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        names = list(event)
        place = names.index(_ROWS)
        before, after = names[:place], names[place + 1 :]
        return {name: event[name] for name in before}, {name: event[name] for name in after}


def many(write: Callable[..., object], event: str, names: Sequence[str], rows: Sequence[Sequence[str | None]]) -> None:
    """Write a line for each row as `write(event, **dict(zip(names, row)))` would, for a fraction of its cost.

    `write` is a logger's method, such as `log.info` of `log = _log.bind(peer=…)`. What the lines share, the time and
    what is bound among it, is determined and encoded once; no name is one that is bound. Values are texts or None. The
    lines are one write, also outside of `together`.
    """
    if len(rows) == 1:
        write(event, **dict(zip(names, rows[0], strict=True)))
    elif rows:
        write(event, **{_ROWS: _Rows(names, rows)})


class _Lines:
    """Writes lines to a stream, each at once, or those of one block in one piece; from any thread."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._held: list[str] | None = None

    def write(self, line: str) -> None:
        with self._lock:
            if self._held is None:
                self._put(line + "\n")
            else:
                self._held.append(line + "\n")

    def hold(self) -> bool:
        """Hold lines back; returns False where that is done already."""
        with self._lock:
            if self._held is not None:
                return False
            self._held = []
            return True

    def let_go(self) -> None:
        with self._lock:
            held, self._held = self._held, None
            if held:
                self._put("".join(held))

    def _put(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()

    def __call__(self, *_names: Any) -> _LineLogger:
        """Return a logger, as structlog asks for one."""
        return _LineLogger(self)


class _LineLogger:
    """What structlog ends in: takes a rendered line, at whatever level."""

    def __init__(self, lines: _Lines) -> None:
        self.debug = self.info = self.warning = self.error = self.exception = self.critical = lines.write


_lines: _Lines | None = None


@contextmanager
def together() -> Iterator[None]:
    """Write the lines of the block in one piece, for many at once. Nothing may be awaited in it."""
    lines = _lines
    is_ours = lines is not None and lines.hold()
    try:
        yield
    finally:
        if lines is not None and is_ours:
            lines.let_go()


def configure(stream: TextIO | None = None, level: int = logging.INFO) -> None:
    """Set up structlog for this process; call it once, in the composition root."""
    # Not above: the command line takes `escape` only, and its start-up time is felt.
    import structlog

    global _lines  # noqa: PLW0603  # as structlog's own configuration is: one log of the process
    stream = stream or sys.stderr
    _lines = _Lines(stream)
    renderer: Any = (
        _for_terminal(structlog.dev.ConsoleRenderer(colors=True))
        if stream.isatty()
        else structlog.processors.JSONRenderer(_to_json)
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            # Not the console renderer's own tracebacks: they show local variables, tokens and keys among them.
            structlog.processors.format_exc_info,
            _escape_values,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_lines,
        cache_logger_on_first_use=False,
    )


def configure_quietly() -> None:
    """Log warnings only, to stderr, unless logging was set up: for commands, whose stdout is their answer."""
    import structlog

    if not structlog.is_configured():
        configure(level=logging.WARNING)
