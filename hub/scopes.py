"""What a token may do: `read` looks, `operate` also starts, stops and reads logs, `admin` also decides who may connect.

A route that says nothing takes `read` for a GET and `admin` for all else, so that a route added without thinking is
closed to all but those who may do everything.
"""

from __future__ import annotations

from typing import Final, Literal, get_args

from common.errors import PeerError

Scope = Literal["read", "operate", "admin"]
SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)


class Forbidden(PeerError):
    """The token is good, and does not reach as far as this."""

    code = "forbidden"
    http_status = 403


def default_scope(method: str) -> Scope:
    """Return what a route takes that does not say."""
    return "read" if method == "GET" else "admin"


def check_scope(granted: Scope, needed: Scope) -> None:
    """Raise `Forbidden` unless a token of scope `granted` may do what takes `needed`."""
    if SCOPES.index(granted) < SCOPES.index(needed):
        raise Forbidden(f"this takes a token of scope {needed}; yours is {granted}")
