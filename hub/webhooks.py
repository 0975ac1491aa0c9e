"""The webhooks of a running hub: adds, shows, tries, rotates, removes them, and keeps one courier for each at work."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import structlog

from common.errors import Unavailable
from common.peer_url import UrlRefused, check_peer_url
from common.tls import PlainHttpRefused, Reach
from hub.courier import Courier, Ways
from hub.webhook import Webhook, of_test
from hub.webhook_progress import Progress
from hub.webhook_store import WebhookStore

_RETRY_S: Final = 0.5
_log: Final = structlog.get_logger("webhook")


class Webhooks:
    """The webhooks in `store`; `run` is the task that serves them."""

    def __init__(self, store: WebhookStore, ways: Ways, reach: Reach) -> None:
        self._store = store
        self._ways = ways
        self._reach = reach
        self._at_work: dict[str, tuple[Courier, asyncio.Task[None]]] = {}
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Serve until cancelled; who was added or removed meanwhile is seen at once."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._changed.clear()
                try:
                    await self._reconcile(group)
                except Unavailable as error:
                    _log.warning("webhooks.unavailable", reason=error.message)
                    await asyncio.sleep(_RETRY_S)
                    continue
                await self._changed.wait()

    async def _reconcile(self, group: asyncio.TaskGroup) -> None:
        wanted = {webhook.webhook_id: webhook for webhook in self._store.list()}
        for webhook_id in self._at_work.keys() - wanted.keys():
            _, task = self._at_work.pop(webhook_id)
            task.cancel()
            await asyncio.wait([task])
        await self._ways.progress.keep_only(wanted)
        for webhook_id in wanted.keys() - self._at_work.keys():
            courier = Courier(wanted[webhook_id], self._ways)
            self._at_work[webhook_id] = courier, group.create_task(courier.run(), name=f"webhook {webhook_id}")

    async def add(self, url: str, events: Sequence[str], spokes: Sequence[str]) -> tuple[Webhook, bytes]:
        """Begin to tell `url` of what happens from now on; returns the webhook and its secret.

        Raises `UrlRefused`, `WebhookRefused`, `Unavailable`.
        """
        checked = self._check(url)
        now_s = self._ways.clock.now_ms() // 1000
        began = await self._ways.feed.last_id()
        kinds, instances = tuple(sorted(set(events))), tuple(sorted(set(spokes)))
        webhook = Webhook(self._ways.clock.new_id(), checked, kinds, instances, began, now_s)
        secret = self._store.add(webhook)
        self._changed.set()
        return webhook, secret

    def _check(self, url: str) -> str:
        checked = check_peer_url(url)
        try:
            self._reach.check(checked)
        except PlainHttpRefused as error:
            raise UrlRefused("a webhook beyond this machine takes https, or [node] insecure_plain_http") from error
        return checked

    def remove(self, webhook_id: str) -> Webhook:
        """Tell it nothing more; raises `NoSuchWebhook`, `Unavailable`."""
        webhook = self._store.remove(webhook_id)
        self._changed.set()
        return webhook

    def rotate(self, webhook_id: str, overlap_s: int) -> bytes:
        """Return its new secret, in force from the next message on; raises what `WebhookStore.rotate` does."""
        return self._store.rotate(webhook_id, self._ways.clock.now_ms() // 1000, overlap_s)

    def former_until(self, webhook_id: str) -> int | None:
        """Return until when former secrets sign, too (epoch seconds), None where none does; raises `Unavailable`."""
        return self._store.former_until(webhook_id, self._ways.clock.now_ms() // 1000)

    async def show(self, webhook_id: str) -> tuple[Webhook, Progress]:
        """Return a webhook and how it goes; raises `NoSuchWebhook`, `Unavailable`."""
        webhook = self._store.find(webhook_id)
        return webhook, await self._ways.progress.load(webhook_id)

    async def list(self) -> list[tuple[Webhook, Progress]]:
        """Return all webhooks and how they go, the oldest first; raises `Unavailable`."""
        return [(webhook, await self._ways.progress.load(webhook.webhook_id)) for webhook in self._store.list()]

    def resume(self, webhook_id: str) -> None:
        """Try again at once, also when it was given up; raises `NoSuchWebhook`, `Unavailable`."""
        self._store.find(webhook_id)
        if webhook_id not in self._at_work:
            raise Unavailable("the webhook is not being served yet; try again")
        self._at_work[webhook_id][0].resume()

    async def test(self, webhook_id: str) -> float:
        """Send a message now and return the ms that it took; raises `NoSuchWebhook` and what sending raises."""
        webhook = self._store.find(webhook_id)
        clock = self._ways.clock
        return await self._ways.post.send(webhook, of_test(clock.new_id(), clock.now_ms(), webhook_id))
