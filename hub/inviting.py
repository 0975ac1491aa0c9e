"""Making invites (PROTOCOL section 5.1): for the API of a running hub and for the command line beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from common.clock import Clock
from common.errors import LocalError
from common.invites import Invite, encode_secret, secret_of
from common.keyring import NodeKeys
from common.peer_url import check_peer_url
from common.trust_store import TrustStore

_KEPT_S: Final = 30 * 86_400
"""How long an invite is kept after its end: whoever used it may repeat its JOIN for as long."""


@dataclass(frozen=True, slots=True)
class Inviting:
    """Makes invites to the hub `instance` with its current key."""

    instance: str
    keys: NodeKeys
    trust: TrustStore
    clock: Clock

    def invite(self, url: str | None, ttl_s: int, labels: Mapping[str, str]) -> Invite:
        """Note a new open invite and return it; raises `LocalError` when nobody knows the hub's URL."""
        if url is None:
            raise LocalError("spokes need a URL to find this hub: set [node] url in hub.toml", code="config")
        key = self.keys.current
        invite_id, now_s = self.clock.new_id(), self.clock.now_ms() // 1000
        expires_s = now_s + ttl_s
        self.trust.forget_invites(now_s - _KEPT_S)
        self.trust.add_invite(invite_id, expires_s, labels)
        return Invite(
            hub=self.instance,
            url=check_peer_url(url),
            fingerprint=key.public.fingerprint,
            invite=invite_id,
            secret=encode_secret(secret_of(invite_id, key)),
            exp=expires_s,
        )
