"""Logging: one canonical line per request and per command, on stderr; console on a terminal, JSON otherwise.

Whatever a peer or an agent named is escaped before it is shown (attack row 56): control characters, escape sequences
and the bidirectional overrides that make a line read as another.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any, Final, TextIO

_encode: Final = json.JSONEncoder(default=repr).encode


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
    return _encode(event)


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
        structlog.dev.ConsoleRenderer(colors=True) if stream.isatty() else structlog.processors.JSONRenderer(_to_json)
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
