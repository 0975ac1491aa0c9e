"""The webhooks of a hub, in the trust store's file, and their secrets, which are stored nowhere.

A secret is derived from the file `webhook.key` (32 random bytes, made with the first webhook) and the webhook's id: who
gets hold of `trust.db` alone can sign nothing. Keep both in the same backup; with another key file a webhook is not
served (`webhook_secret`) until it is removed and added again. Each change is audited before it is committed.

A rotation counts the webhook's generation up, and its secret is derived from that, too. The former one goes on signing
beside it until its time is over. `proof` is that of the current one: a release that knows no generations signs nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from common.errors import LocalError, PeerError, Unavailable
from common.keyfiles import create_token, load_token
from common.trust_tables import open_tables
from hub.webhook import Webhook

MAX_WEBHOOKS: Final = 64
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS webhooks (
    webhook_id TEXT PRIMARY KEY, url TEXT NOT NULL, events TEXT NOT NULL, spokes TEXT NOT NULL, began TEXT NOT NULL,
    created_s INTEGER NOT NULL, proof TEXT NOT NULL, UNIQUE (url, events, spokes)
) STRICT;
CREATE TABLE IF NOT EXISTS webhook_secrets (
    webhook_id TEXT NOT NULL, generation INTEGER NOT NULL, until_s INTEGER, PRIMARY KEY (webhook_id, generation)
) STRICT
"""
MAX_SECRETS: Final = 8
"""The most that sign at once; a message carries a signature by each."""
_ALL: Final = "SELECT webhook_id, url, events, spokes, began, created_s FROM webhooks ORDER BY rowid"


class WebhookRefused(PeerError):
    """A webhook that cannot be made."""

    code = "webhook_refused"
    http_status = 409


class NoSuchWebhook(PeerError):
    """There is no webhook of that id."""

    code = "not_found"
    http_status = 404


class WebhookSecretLost(LocalError):
    """The key file is gone or another one: what would be sent would not be believed."""

    code = "webhook_secret"


def _proof_of(secret: bytes) -> str:
    return hashlib.sha256(secret).hexdigest()


def _webhook_of(row: tuple[str, str, str, str, str, int]) -> Webhook:
    webhook_id, url, events, spokes, began, created_s = row
    return Webhook(webhook_id, url, tuple(json.loads(events)), tuple(json.loads(spokes)), began, created_s)


class WebhookStore:
    """The webhooks in the file at `path`; `tell` hears of each change before it is committed. Close it when done."""

    def __init__(self, path: Path, key_file: Path, tell: Callable[[str, Mapping[str, object]], None]) -> None:
        self._key_file = key_file
        self._tell = tell
        self._database = open_tables(path)
        self._database.executescript(_SCHEMA)

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
            raise Unavailable(f"the webhooks cannot be written: {error}") from error
        finally:
            self._database.rollback()

    def add(self, webhook: Webhook) -> bytes:
        """Keep a new webhook and return its secret; raises `WebhookRefused`, `Unavailable`, `KeyFileError`."""
        if not self._key_file.exists():
            create_token(self._key_file)
        secret = self._derive(webhook.webhook_id)
        events, spokes = json.dumps(sorted(webhook.events)), json.dumps(sorted(webhook.spokes))
        row = (webhook.webhook_id, webhook.url, events, spokes, webhook.began, webhook.created_s, _proof_of(secret))
        with self._changing():
            known = self.list()
            if len(known) >= MAX_WEBHOOKS:
                raise WebhookRefused(f"there are {MAX_WEBHOOKS} webhooks already; remove one first")
            if any((old.url, *map(set, (old.events, old.spokes))) == _aim(webhook) for old in known):
                raise WebhookRefused("there is a webhook with this URL, events and spokes already")
            self._database.execute("INSERT INTO webhooks VALUES (?, ?, ?, ?, ?, ?, ?)", row)
            self._tell("webhook.added", {"webhook": webhook.webhook_id})
        return secret

    def remove(self, webhook_id: str) -> Webhook:
        """Forget a webhook and return what it was; raises `NoSuchWebhook`, `Unavailable`."""
        with self._changing():
            webhook = self.find(webhook_id)
            self._database.execute("DELETE FROM webhooks WHERE webhook_id = ?", (webhook_id,))
            self._database.execute("DELETE FROM webhook_secrets WHERE webhook_id = ?", (webhook_id,))
            self._tell("webhook.removed", {"webhook": webhook_id})
        return webhook

    def list(self) -> tuple[Webhook, ...]:
        """Return all webhooks, the oldest first; raises `Unavailable`."""
        return tuple(map(_webhook_of, self._read(_ALL)))

    def find(self, webhook_id: str) -> Webhook:
        """Return one webhook; raises `NoSuchWebhook`, `Unavailable`."""
        for webhook in self.list():
            if webhook.webhook_id == webhook_id:
                return webhook
        raise NoSuchWebhook("there is no such webhook here; see hub webhook list")

    def rotate(self, webhook_id: str, now_s: int, overlap_s: int) -> bytes:
        """Give a webhook a new secret and return it; the former ones sign beside it for `overlap_s`, none longer.

        Raises `NoSuchWebhook`, `WebhookRefused`, `WebhookSecretLost`, `Unavailable`, `KeyFileError`.
        """
        with self._changing():
            self.find(webhook_id)
            self.secret_of(webhook_id)  # another key file would make the former secret another one
            known = self._generations(webhook_id, now_s)
            if overlap_s and len(known) >= MAX_SECRETS:
                raise WebhookRefused(f"{MAX_SECRETS} secrets sign already: wait, or end the former ones by overlap 0")
            ends = {
                generation: now_s + overlap_s if until_s is None else min(until_s, now_s + overlap_s)
                for generation, until_s in known
            }
            latest = known[0][0] + 1
            secret = self._derive(webhook_id, latest)
            self._keep_secrets(webhook_id, {latest: None, **ends}, _proof_of(secret))
            self._tell("webhook.rotated", {"webhook": webhook_id, "overlap_s": overlap_s})
        return secret

    def _keep_secrets(self, webhook_id: str, ends: Mapping[int, int | None], proof: str) -> None:
        self._database.execute("DELETE FROM webhook_secrets WHERE webhook_id = ?", (webhook_id,))
        self._database.executemany(
            "INSERT INTO webhook_secrets VALUES (?, ?, ?)", [(webhook_id, *pair) for pair in ends.items()]
        )
        self._database.execute("UPDATE webhooks SET proof = ? WHERE webhook_id = ?", (proof, webhook_id))

    def _generations(self, webhook_id: str, now_s: int) -> Sequence[tuple[int, int | None]]:
        """Return which generations sign and until when, the latest first; that one has no end."""
        query = "SELECT generation, until_s FROM webhook_secrets WHERE webhook_id = ? ORDER BY generation DESC"
        return [(number, end) for number, end in self._read(query, webhook_id) if end is None or end > now_s] or [
            (0, None)
        ]

    def former_until(self, webhook_id: str, now_s: int) -> int | None:
        """Return until when former secrets sign, too (epoch seconds), None where none does; raises `Unavailable`."""
        return max((end for _, end in self._generations(webhook_id, now_s) if end is not None), default=None)

    def secrets_of(self, webhook_id: str, now_s: int) -> Sequence[bytes]:
        """Return what signs a webhook's messages now, the latest first; raises `WebhookSecretLost`, `KeyFileError`."""
        former = [number for number, end in self._generations(webhook_id, now_s) if end is not None]
        return [self.secret_of(webhook_id), *(self._derive(webhook_id, number) for number in former)]

    def secret_of(self, webhook_id: str) -> bytes:
        """Return the latest secret of a webhook; raises `WebhookSecretLost`, `KeyFileError`."""
        latest = self._read("SELECT max(generation) FROM webhook_secrets WHERE webhook_id = ?", webhook_id)[0][0]
        secret = self._derive(webhook_id, latest or 0)
        proofs = self._read("SELECT proof FROM webhooks WHERE webhook_id = ?", webhook_id)
        if proofs != [(_proof_of(secret),)]:
            raise WebhookSecretLost(f"{self._key_file} is not the file of this webhook: restore it, or add it again")
        return secret

    def _read(self, query: str, *values: str) -> Sequence[Any]:
        try:
            rows: Sequence[Any] = self._database.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise Unavailable(f"the webhooks cannot be read: {error}") from error
        return rows

    def _derive(self, webhook_id: str, generation: int = 0) -> bytes:
        named = f"{webhook_id}.{generation}" if generation else webhook_id  # the first is as it was before rotations
        return hmac.digest(load_token(self._key_file).encode(), f"hubspoke-webhook-v1.{named}".encode(), "sha256")


def _aim(webhook: Webhook) -> tuple[object, ...]:
    return webhook.url, set(webhook.events), set(webhook.spokes)
