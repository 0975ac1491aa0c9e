"""How the page says things: ages, sizes, and text of others as text. Pure (attacks 56, 57)."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, Final

from markupsafe import Markup

from common.logs import escape

_MINUTE: Final = 60
_HOUR: Final = 60 * _MINUTE
_DAY: Final = 24 * _HOUR
_KIB: Final = 1024


def plain(value: Any) -> Any:
    """Return text on one line with everything unprintable made visible; what is markup already stays."""
    return escape(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def lines(text: str) -> Markup:
    """Return text of several lines; everything unprintable but line ends and tabs is made visible."""
    kept = "\n".join("\t".join(map(escape, line.split("\t"))) for line in text.replace("\r\n", "\n").split("\n"))
    return Markup.escape(kept)


def age(seconds: float) -> str:
    """Return how long ago, in one unit: `now`, `40 s ago`, `3 min ago`, `in 5 min`."""
    ahead, size = seconds < 0, abs(seconds)
    for unit, name in ((_DAY, "d"), (_HOUR, "h"), (_MINUTE, "min"), (1, "s")):
        if size >= unit:
            return f"in {int(size // unit)} {name}" if ahead else f"{int(size // unit)} {name} ago"
    return "now"


def moment(text: str | None, now_ms: int) -> Markup:
    """Return an RFC 3339 time as its age, with the time itself as title; the page's script keeps it young."""
    if not text:
        return Markup('<span class="quiet">never</span>')
    time = _time(text)
    if time is None:
        return Markup("{0}").format(plain(text))
    seconds = now_ms / 1000 - time.timestamp()
    return Markup('<time datetime="{0}" title="{0}">{1}</time>').format(text, age(seconds))


def _time(text: str) -> datetime | None:
    """Read a time that a spoke told; None for what is none."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def duration(start: str | None, end: str | None) -> str:
    """Return how long something took, between two RFC 3339 times; "" while either is unknown."""
    began, ended = _time(start or ""), _time(end or "")
    if began is None or ended is None:
        return ""
    seconds = (ended - began).total_seconds()
    if seconds < _MINUTE:
        return f"{seconds:.1f} s"
    return f"{int(seconds // _MINUTE)} min {int(seconds % _MINUTE)} s"


def size(count: int) -> str:
    """Return a number of bytes for people."""
    if count < _KIB:
        return f"{count} bytes"
    return f"{count / _KIB:.0f} KiB" if count < _KIB * _KIB else f"{count / _KIB / _KIB:.1f} MiB"


def pretty(value: Any) -> Markup:
    """Return JSON over several lines."""
    return lines(json.dumps(value, indent=2, ensure_ascii=False))
