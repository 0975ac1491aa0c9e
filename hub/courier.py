"""Tells one webhook of every change that it wants, in order for each agent, at least once, over restarts of the hub.

The cursor moves only when everything up to it was taken, so that a hub which is killed at any point tells again what
it may not have told, under the same ids. A receiver that fails gets it again after jittered pauses of at most a
minute; one that failed for `patience_s`, or says that it is gone (410), is given up, visibly, until the operator
resumes it. What the stream dropped before it was told is told as a gap.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

import structlog

from common.clock import Clock
from common.errors import HubspokeError, Unavailable
from hub.backoff import delay_s
from hub.feed import BEGINNING, Change, Feed
from hub.settlement import shown_error
from hub.webhook import Message, Webhook, of_change, of_gap, waves
from hub.webhook_post import Answered
from hub.webhook_progress import Progress, ProgressStore

AT_ONCE: Final = 8
"""Messages under way to one receiver."""
_IDLE_S: Final = 15.0
_SAVE_S: Final = 10.0
"""How often the cursor is kept while nothing that passes by is wanted."""
_STORE_RETRY_S: Final = 0.5
_TRIES: Final = 5
"""So many attempts are made in this life of the hub before a receiver is given up: the hub may have been away."""
_log: Final = structlog.get_logger("webhook")


class Post(Protocol):
    """Sends one message; returns when it was taken, else raises a `HubspokeError`."""

    async def send(self, webhook: Webhook, message: Message) -> float:
        """Return the ms that it took."""
        ...


@dataclass(frozen=True, slots=True)
class Ways:
    """What every courier goes by: where it reads, what it remembers, how it sends, when it gives up, whom it tells
    the outcome of each attempt.
    """

    feed: Feed
    progress: ProgressStore
    post: Post
    clock: Clock
    patience_s: Callable[[], float]
    told: Callable[[str], None]


class Courier:
    """Serves one webhook; `run` is its task."""

    def __init__(self, webhook: Webhook, ways: Ways, jitter: Callable[[], float] = random.random) -> None:
        self.webhook = webhook
        self.progress = Progress()
        self._ways = ways
        self._feed = ways.feed
        self._clock = ways.clock
        self._jitter = jitter
        self._position = ""
        self._taken: set[str] = set()
        self._tries = 0
        self._saved_at = 0.0
        self._resumed = asyncio.Event()

    def resume(self) -> None:
        """Try again at once, also when it was given up."""
        self._resumed.set()

    async def run(self) -> None:
        """Work until cancelled; while Valkey is away the receiver waits."""
        while True:
            try:
                self.progress = await self._ways.progress.load(self.webhook.webhook_id)
                self._position = self.progress.cursor or self.webhook.began
                while True:
                    await self._step()
            except Unavailable as error:
                _log.warning("webhook.waits", webhook=self.webhook.webhook_id, reason=error.message)
                await asyncio.sleep(_STORE_RETRY_S)

    async def _step(self) -> None:
        if self.progress.disabled_ms:
            await self._resumed.wait()
            await self._save(failures=0, failing_ms=0, next_ms=0, disabled_ms=0)
        self._resumed.clear()
        changed = self._feed.changed
        changes = await self._feed.read(self._position)
        # Asked after the reading: what was dropped before it is then known to be.
        if await self._feed.has_gap(self._position):
            await self._tell_gap()
        elif changes:
            await self._tell(changes)
        else:
            await self._feed.wait(changed, _IDLE_S)

    async def _tell_gap(self) -> None:
        _log.warning("webhook.gap", webhook=self.webhook.webhook_id, after=self._position)
        if not await self._deliver([of_gap(self._position, self._clock.now_ms())]):
            return
        if kept := await self._feed.read(BEGINNING):
            await self._tell(kept)
        else:
            await self._advance(BEGINNING)

    async def _tell(self, changes: Sequence[Change]) -> None:
        for wave in waves([change for change in changes if self.webhook.wants(change)], AT_ONCE):
            if not await self._deliver([of_change(change) for change in wave]):
                return
            await self._advance(wave[-1].event_id)
        self._position = changes[-1].event_id
        if time.monotonic() - self._saved_at > _SAVE_S:
            await self._save(cursor=self._position)

    async def _advance(self, cursor: str) -> None:
        self._position, self._tries = cursor, 0
        self._taken.clear()
        now_ms = self._clock.now_ms()
        await self._save(
            cursor=cursor, tried_ms=now_ms, told_ms=now_ms, failures=0, failing_ms=0, next_ms=0, error=None
        )

    async def _deliver(self, messages: Sequence[Message]) -> bool:
        """Return whether all were taken; what was taken is not sent again when the others are."""
        due = [message for message in messages if message.message_id not in self._taken]
        failures = [failure for failure in await asyncio.gather(*map(self._send, due)) if failure is not None]
        if failures:
            await self._back_off(failures[0])
        return not failures

    async def _send(self, message: Message) -> HubspokeError | None:
        try:
            await self._ways.post.send(self.webhook, message)
        except HubspokeError as error:
            self._ways.told(error.code)
            return error
        self._ways.told("delivered")
        self._taken.add(message.message_id)
        return None

    async def _back_off(self, failure: HubspokeError) -> None:
        known, now_ms = self.progress, self._clock.now_ms()
        self._tries += 1
        failing_ms = known.failing_ms or now_ms
        pause_s = delay_s(known.failures + 1, self._jitter())
        is_over = self._tries >= _TRIES and now_ms - failing_ms > self._ways.patience_s() * 1000
        gives_up = is_over or (isinstance(failure, Answered) and failure.is_gone)
        log = _log.error if gives_up else _log.warning
        log(
            "webhook.disabled" if gives_up else "webhook.failed",
            webhook=self.webhook.webhook_id,
            code=failure.code,
            reason=failure.message,
            failures=known.failures + 1,
        )
        await self._save(
            tried_ms=now_ms,
            failures=known.failures + 1,
            failing_ms=failing_ms,
            next_ms=0 if gives_up else now_ms + int(pause_s * 1000),
            error=shown_error(failure.code, failure.message, retryable=not gives_up),
            disabled_ms=now_ms if gives_up else 0,
        )
        if not gives_up:
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._resumed.wait()

    async def _save(self, **changes: Any) -> None:
        self.progress = replace(self.progress, **changes)
        self._saved_at = time.monotonic()
        await self._ways.progress.save(self.webhook.webhook_id, self.progress)
