"""How far each webhook has been told and how that goes, in Valkey beside the events: one field for each webhook.

Written whole by the one courier of the webhook, so a record is always of one moment.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from redis.asyncio import Redis

from common import strict_json
from common.valkey import translated
from hub.keyspace import Keyspace


@dataclass(frozen=True, slots=True)
class Progress:
    """Told up to the event `cursor`, "" for none yet; times in ms since the epoch, 0 for never.

    `failures` attempts in a row failed, the first at `failing_ms`, with `error` last; `disabled_ms` is when it was
    given up.
    """

    cursor: str = ""
    tried_ms: int = 0
    told_ms: int = 0
    failures: int = 0
    failing_ms: int = 0
    next_ms: int = 0
    error: dict[str, Any] | None = None
    disabled_ms: int = 0

    @property
    def state(self) -> Literal["active", "failing", "disabled"]:
        """How it goes, in a word."""
        return "disabled" if self.disabled_ms else "failing" if self.failures else "active"


class ProgressStore:
    """Reads and writes; every method raises `Unavailable` when Valkey is away."""

    def __init__(self, client: Redis, keys: Keyspace) -> None:
        self._client = client
        self._key = keys.webhooks

    async def load(self, webhook_id: str) -> Progress:
        """Return how a webhook goes; of one that is unknown, nothing yet."""
        with translated():
            raw: Any = await self._client.hget(self._key, webhook_id)
        return Progress(**strict_json.parse(raw)) if raw else Progress()

    async def save(self, webhook_id: str, progress: Progress) -> None:
        """Keep it; durable when this returns."""
        with translated():
            await self._client.hset(self._key, webhook_id, strict_json.encode(asdict(progress)))

    async def keep_only(self, webhook_ids: Iterable[str]) -> None:
        """Forget all webhooks but these."""
        with translated():
            known: Any = await self._client.hkeys(self._key)
            if gone := {field.decode() for field in known} - set(webhook_ids):
                await self._client.hdel(self._key, *gone)
