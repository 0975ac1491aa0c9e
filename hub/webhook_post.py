"""Messages to webhooks over HTTP: one signed POST, no redirects, nothing read of the answer but its status.

A webhook's URL is checked like a peer's, when it is added and again when it is used, and so is every address that its
name resolves to (attack row 48): nobody who may add a webhook can make the hub ask the machine's own metadata service.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

import aiohttp

from common.clock import Clock
from common.errors import PeerError, Unavailable
from common.http import JSON_TYPE
from common.peer_url import check_peer_url
from common.proxy import proxy_for
from hub.webhook import Message, Webhook, sign
from hub.webhook_store import WebhookStore

TIMEOUT_S: Final = 15.0
_GONE: Final = 410
_REDIRECT: Final = 300


class Answered(PeerError):
    """The receiver answered with another status than 2xx; it did not take the message."""

    code = "http_status"

    def __init__(self, status: int) -> None:
        super().__init__(f"the receiver answered {status}")
        self.is_gone = status == _GONE


@dataclass(frozen=True, slots=True)
class WebhookPost:
    """Sends messages; the secrets are those of `store`."""

    session: aiohttp.ClientSession
    store: WebhookStore
    clock: Clock

    async def send(self, webhook: Webhook, message: Message) -> float:
        """Return once the receiver has taken the message, with the ms that it took.

        Raises `Answered`, `Unavailable`, `UrlRefused`, `LocalError`: all of them mean that it may be sent again.
        """
        started = time.monotonic()
        url = check_peer_url(webhook.url)
        now_s = self.clock.now_ms() // 1000
        headers = sign(self.store.secrets_of(webhook.webhook_id, now_s), message, now_s)
        try:
            async with self.session.post(
                url,
                data=message.body,
                headers={**headers, "Content-Type": JSON_TYPE},
                allow_redirects=False,
                proxy=proxy_for(url),
                timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
            ) as response:
                if response.status >= _REDIRECT:
                    raise Answered(response.status)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unavailable(f"cannot reach the receiver: {type(error).__name__}") from error
        return (time.monotonic() - started) * 1000
