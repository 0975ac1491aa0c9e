"""Tokens for people and programs beside the root token of `admin.token`: named, of one scope, perhaps until some time.

Kept in the trust store's file as SHA-256 of 32 random bytes, so the file opens nothing to whoever reads it (attack row
58). Making and revoking one is told before it is committed, and in force in every process at the next request.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from common.errors import LocalError, Unavailable
from common.trust_tables import open_tables
from hub.scopes import Scope

PREFIX: Final = "hst_"
"""What every token begins with: programs that look for secrets in the wrong places can find it."""
_RANDOM_BYTES: Final = 32
_KEPT_S: Final = 30 * 86_400
"""How long an expired token is still listed."""
_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?\Z")
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS tokens (
    name TEXT PRIMARY KEY, digest TEXT NOT NULL UNIQUE, scope TEXT NOT NULL, created_s INTEGER NOT NULL,
    expires_s INTEGER
) STRICT
"""


class TokenRefused(LocalError):
    """A token that cannot be made or revoked."""

    code = "token_refused"


@dataclass(frozen=True, slots=True)
class Token:
    """What is known of a token; times are epoch seconds, None for no end."""

    name: str
    scope: Scope
    created_s: int
    expires_s: int | None

    def counts_at(self, now_s: float) -> bool:
        """Whether it still opens anything."""
        return self.expires_s is None or now_s < self.expires_s


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


class TokenStore:
    """The tokens in the file at `path`; `tell` hears of each change before it is committed. Close it when done."""

    def __init__(self, path: Path, tell: Callable[[str, Mapping[str, object]], None]) -> None:
        self._tell = tell
        self._version: int | None = None
        self._by_digest: dict[str, Token] = {}
        self._database = open_tables(path)
        self._database.execute(_SCHEMA)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    @contextmanager
    def _changing(self) -> Iterator[None]:
        try:
            self._database.execute("BEGIN IMMEDIATE")
            yield
            self._database.execute("COMMIT")
        except sqlite3.Error as error:
            raise Unavailable(f"the tokens cannot be written: {error}") from error
        finally:
            self._database.rollback()
            # data_version only tells of other connections' commits.
            self._version = None

    def _current(self) -> dict[str, Token]:
        try:
            (version,) = self._database.execute("PRAGMA data_version").fetchone()
            if version != self._version:
                rows = self._database.execute("SELECT digest, name, scope, created_s, expires_s FROM tokens")
                self._by_digest = {digest: Token(*row) for digest, *row in rows}
                self._version = version
        except sqlite3.Error as error:
            raise Unavailable(f"the tokens cannot be read: {error}") from error
        return self._by_digest

    def create(self, name: str, scope: Scope, now_s: int, ttl_s: int | None = None) -> str:
        """Make a token and return it, which nobody can later; raises `TokenRefused`, `Unavailable`."""
        if not _NAME.match(name):
            raise TokenRefused("a token's name has 1 to 64 of a-z, 0-9, '.', '_', '-'; letter or digit at both ends")
        secret = PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
        expires_s = None if ttl_s is None else now_s + ttl_s
        with self._changing():
            self._database.execute("DELETE FROM tokens WHERE expires_s < ?", (now_s - _KEPT_S,))
            if self._database.execute("SELECT 1 FROM tokens WHERE name = ?", (name,)).fetchone():
                raise TokenRefused(f"there is a token {name} already; revoke it, or choose another name")
            self._database.execute(
                "INSERT INTO tokens VALUES (?, ?, ?, ?, ?)", (name, _digest(secret), scope, now_s, expires_s)
            )
            self._tell("token.created", {"token": name, "scope": scope, "expires_s": expires_s})
        return secret

    def revoke(self, name: str) -> Token:
        """Remove a token and return what it was; raises `TokenRefused`, `Unavailable`."""
        with self._changing():
            token = next((token for token in self._current().values() if token.name == name), None)
            if token is None:
                raise TokenRefused("there is no token of that name; see hub token list")
            self._database.execute("DELETE FROM tokens WHERE name = ?", (name,))
            self._tell("token.revoked", {"token": name, "scope": token.scope})
        return token

    def list(self) -> tuple[Token, ...]:
        """Return all tokens by name, also those that have expired."""
        return tuple(sorted(self._current().values(), key=lambda token: token.name))

    def find(self, secret: str, now_s: float) -> Token | None:
        """Return the token that `secret` is, unless it has expired.

        Found by its digest: what a lookup's time could tell is of the digest, which nobody can choose.
        """
        token = self._current().get(_digest(secret))
        return token if token is not None and token.counts_at(now_s) else None
