"""Logging: one canonical line per request and per command, on stderr; console on a terminal, JSON otherwise.

Whatever a peer or an agent named is escaped before it is shown (attack row 56): control characters, escape sequences
and the bidirectional overrides that make a line read as another.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO


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


def configure(stream: TextIO | None = None, level: int = logging.INFO) -> None:
    """Set up structlog for this process; call it once, in the composition root."""
    # Not above: the command line takes `escape` only, and its start-up time is felt.
    import structlog

    stream = stream or sys.stderr
    renderer: Any = (
        structlog.dev.ConsoleRenderer(colors=True) if stream.isatty() else structlog.processors.JSONRenderer()
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
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )


def configure_quietly() -> None:
    """Log warnings only, to stderr, unless logging was set up: for commands, whose stdout is their answer."""
    import structlog

    if not structlog.is_configured():
        configure(level=logging.WARNING)
