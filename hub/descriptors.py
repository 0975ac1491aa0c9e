"""Room for links: each takes a file descriptor, and a usual session starts programs with a limit of 1,024."""

from __future__ import annotations

import resource
from typing import Final

WANTED: Final = 1_048_576


def raise_limit() -> int:
    """Raise the limit of open files as far as this process may, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = WANTED if hard == resource.RLIM_INFINITY else min(WANTED, hard)
    if soft == resource.RLIM_INFINITY or soft >= allowed:
        return soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return allowed
