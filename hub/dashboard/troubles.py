"""What is wrong, or waits for a decision, the worst first: pure, from what the API shows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from hub.answers import Peer

Weight = Literal["bad", "decide", "note"]
_ORDER: Final[tuple[Weight, ...]] = ("bad", "decide", "note")


@dataclass(frozen=True, slots=True)
class Trouble:
    """One sentence about `peer` (None: about the hub itself), since when, and why."""

    weight: Weight
    text: str
    peer: str | None = None
    since: str | None = None
    why: str | None = None


def of_peer(peer: Peer) -> Iterator[Trouble]:
    """Yield what is wrong with one spoke."""
    name, state = peer["id"], peer["state"]
    waiting = f"; waiting for it: {peer['pending']}" if peer["pending"] else ""
    if state == "pending":
        yield Trouble("decide", "asks to join: compare its fingerprint, then approve", name, peer["createdAt"])
    elif state == "suspended":
        yield Trouble("note", f"is suspended{waiting}", name)
    elif state == "active":
        error = peer["lastError"]
        if peer["failingSince"]:
            yield Trouble(
                "bad", f"does not answer{waiting}", name, peer["failingSince"], error["detail"] if error else None
            )
        elif peer["link"] is None and peer["url"] is None:
            yield Trouble("bad", f"is not connected, and only it can dial{waiting}", name, peer["lastContactAt"])
        freeze = peer["freeze"]
        if freeze is not None and freeze["state"] == "refused":
            why = freeze["lastError"]
            yield Trouble("bad", f"refused to {freeze['asked']}", name, freeze["at"], why["detail"] if why else None)
        elif peer["frozen"]:
            since, why_frozen = (freeze["at"], freeze["reason"]) if freeze else (None, None)
            yield Trouble("note", "is frozen: it starts nothing for this hub until the thaw", name, since, why_frozen)


def troubles(peers: Iterable[Peer], hub_error: str | None) -> list[Trouble]:
    """Return all that is wrong, the worst first; `hub_error` is why the hub itself takes nothing new."""
    found = [] if hub_error is None else [Trouble("bad", "This hub takes nothing new", why=hub_error)]
    found += [trouble for peer in peers for trouble in of_peer(peer)]
    return sorted(found, key=lambda trouble: _ORDER.index(trouble.weight))


def health(peer: Peer) -> str:
    """Return a spoke's state in one word: `ok`, `bad`, `decide`, `note`, or `off` for one that was revoked."""
    if peer["state"] == "revoked":
        return "off"
    weights = [trouble.weight for trouble in of_peer(peer)]
    return min(weights, key=_ORDER.index) if weights else "ok"
