"""Logging: one canonical line per request and per command, on stderr; console on a terminal, JSON otherwise.

Whatever a peer or an agent named is escaped before it is shown (attack row 56): control characters, escape sequences
and the bidirectional overrides that make a line read as another.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog


def escape(text: str) -> str:
    r"""Return `text` on one line with everything unprintable as `\xNN` or `\uNNNN`; a backslash stays one."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _escape_values(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    # The formatted traceback is ours and keeps its lines.
    return {
        key: escape(value) if isinstance(value, str) and key != "exception" else value for key, value in event.items()
    }


def configure(stream: TextIO | None = None, level: int = logging.INFO) -> None:
    """Set up structlog for this process; call it once, in the composition root."""
    stream = stream or sys.stderr
    renderer: Any = (
        structlog.dev.ConsoleRenderer(colors=True) if stream.isatty() else structlog.processors.JSONRenderer()
    )
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if not stream.isatty():
        processors.append(structlog.processors.format_exc_info)
    structlog.configure(
        processors=[*processors, _escape_values, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
