"""The open links of a node, one per connection, and the transport that prefers them to POST.

The newest link of an instance is the one that counts: it closes the one before it (PROTOCOL section 3, fault row 32).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from common.errors import Unavailable
from common.exchange import Transport
from common.link import Link
from common.peers import Peer
from common.websocket import GOING_AWAY, REPLACED


class Links:
    """Finds the link of a tenant."""

    def __init__(self) -> None:
        self._by_tenant: dict[str, Link] = {}

    def find(self, tenant: str) -> Link | None:
        """Return the tenant's link while envelopes can be sent over it."""
        link = self._by_tenant.get(tenant)
        return link if link is not None and link.open else None

    @contextmanager
    def holding(self, link: Link) -> Iterator[Link | None]:
        """Make it the link of its tenant for the length of the block; yields the one that it closes."""
        tenant = link.peer.tenant
        replaced = self.find(tenant)
        self._by_tenant[tenant] = link
        if replaced is not None:
            replaced.end(REPLACED, "replaced")
        try:
            yield replaced
        finally:
            if self._by_tenant.get(tenant) is link:
                del self._by_tenant[tenant]

    def end_all(self) -> None:
        """Close all links: this node stops."""
        for link in self._by_tenant.values():
            link.end(GOING_AWAY, "stopping")


class Carrier:
    """Delivers over a peer's link when one is open, else by `post`; None where a link is to be waited for."""

    def __init__(self, links: Links, post: Transport | None) -> None:
        self._links = links
        self._post = post

    async def deliver(self, peer: Peer, raw: bytes) -> bytes:
        """Return the answer's bytes; raises `EnvelopeNotTaken` or `Unavailable`."""
        link = self._links.find(peer.tenant)
        if link is not None:
            return await link.deliver(raw)
        if self._post is None:
            raise Unavailable(f"there is no link with {peer.instance} now")
        return await self._post.deliver(peer, raw)
