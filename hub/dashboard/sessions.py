"""Who is logged in to the page: a random cookie that stands for a token, kept here and nowhere else.

A session holds the token itself and asks for it again at every request, so it opens what the token opens now and ends
with it. It is in memory only: a hub that starts again asks people to log in again, and no file opens anything.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from typing import Final

from common.clock import Clock

LIFE_S: Final = 12 * 3600
_MAX_SESSIONS: Final = 1000
_RANDOM_BYTES: Final = 32


@dataclass(slots=True)
class Session:
    """One login; `csrf` stands in its forms, `notes` are said once, on the next page: (`done` or `failed`, text)."""

    token: str = field(repr=False)
    csrf: str = field(repr=False)
    expires_s: float
    notes: list[tuple[str, str]] = field(default_factory=list)

    def is_own(self, csrf: str) -> bool:
        """Whether a form came from a page of this session; as quick for every wrong one."""
        return hmac.compare_digest(csrf.encode("utf-8", "surrogateescape"), self.csrf.encode())

    def take_notes(self) -> list[tuple[str, str]]:
        """Return what is to be said, once."""
        said, self.notes = self.notes, []
        return said


def _digest(cookie: str) -> str:
    return hashlib.sha256(cookie.encode("utf-8", "surrogateescape")).hexdigest()


class Sessions:
    """All sessions, by the hash of their cookie; when there are too many, the oldest ends."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._by_digest: dict[str, Session] = {}

    def open(self, token: str) -> str:
        """Begin a session for `token` and return the value of its cookie."""
        if len(self._by_digest) >= _MAX_SESSIONS:
            del self._by_digest[next(iter(self._by_digest))]
        cookie = secrets.token_urlsafe(_RANDOM_BYTES)
        expires_s = self._clock.now_ms() / 1000 + LIFE_S
        self._by_digest[_digest(cookie)] = Session(token, secrets.token_urlsafe(_RANDOM_BYTES), expires_s)
        return cookie

    def find(self, cookie: str) -> Session | None:
        """Return the session of a cookie until it expires."""
        session = self._by_digest.get(_digest(cookie))
        if session is not None and session.expires_s <= self._clock.now_ms() / 1000:
            self.close(cookie)
            return None
        return session

    def close(self, cookie: str) -> None:
        """End a session."""
        self._by_digest.pop(_digest(cookie), None)
