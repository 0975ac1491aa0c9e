"""A webhook: which changes it is told, and the signed message that tells of one (Standard Webhooks 1.0).

Pure. The id of a message is that of the event, so a receiver that keeps the ids it has seen takes each event once,
however often it comes. What is signed is `id.timestamp.body`: a message cannot be given another body, or sent again as
a new one; a receiver refuses timestamps that are minutes old.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from common import strict_json
from common.ids import rfc3339
from hub.feed import Change

_SECRET_FORM: Final = "whsec_{}"  # noqa: S105  # what every secret begins with, not one


@dataclass(frozen=True, slots=True)
class Webhook:
    """Who is told what: changes to one of `events` of one of `spokes` (empty: any), from the event `began` on."""

    webhook_id: str
    url: str
    events: tuple[str, ...]
    spokes: tuple[str, ...]
    began: str
    created_s: int

    def wants(self, change: Change) -> bool:
        """Whether it is told of this change."""
        return (not self.events or change.status in self.events) and (not self.spokes or change.spoke in self.spokes)


@dataclass(frozen=True, slots=True)
class Message:
    """What goes out, the same bytes at each attempt."""

    message_id: str
    body: bytes


def _message(message_id: str, kind: str, at_ms: int, data: dict[str, Any]) -> Message:
    return Message(message_id, strict_json.encode({"type": kind, "timestamp": rfc3339(at_ms), "data": data}))


def of_change(change: Change) -> Message:
    """Return the message that tells of a change."""
    return _message(change.event_id, f"agent.{change.status}", change.at_ms, change.to_view())


def of_gap(after: str, now_ms: int) -> Message:
    """Return the message that says that changes after that event may be gone untold: look at the agents once."""
    return _message(f"gap_{after}", "events.gap", now_ms, {"after": after})


def of_test(message_id: str, now_ms: int, webhook_id: str) -> Message:
    """Return a message that somebody asked for to try the way."""
    return _message(f"test_{message_id}", "webhook.test", now_ms, {"webhookId": webhook_id})


def show_secret(secret: bytes) -> str:
    """Return the secret as receivers' libraries take it."""
    return _SECRET_FORM.format(base64.b64encode(secret).decode())


def sign(secrets: Sequence[bytes], message: Message, now_s: int) -> dict[str, str]:
    """Return the headers that a message gets for an attempt at this time: one signature by each secret, in their order.

    A receiver takes the message when any of them is by the secret that it knows (Standard Webhooks, "Zero downtime
    secret rotation").
    """
    signed = b"%s.%d.%s" % (message.message_id.encode(), now_s, message.body)
    digests = (hmac.digest(secret, signed, hashlib.sha256) for secret in secrets)
    return {
        "Webhook-Id": message.message_id,
        "Webhook-Timestamp": str(now_s),
        "Webhook-Signature": " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in digests),
    }


def waves(changes: Sequence[Change], most: int) -> Iterator[list[Change]]:
    """Part changes into runs of at most `most` that may go at once: an agent's changes never overtake each other."""
    wave: list[Change] = []
    agents: set[str] = set()
    for change in changes:
        if len(wave) == most or change.agent_id in agents:
            yield wave
            wave, agents = [], set()
        wave.append(change)
        agents.add(change.agent_id)
    if wave:
        yield wave
