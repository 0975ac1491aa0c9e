"""Whether the store is still the one this node has worked with, and what may be taken after it was not (ADR 0009).

Inside Valkey lie a generation and a counter of accepted envelopes; a copy of both is kept outside (`StoreMark`). No
generation there: emptied. Another one: a stranger's. A smaller counter: an old copy. Whatever it is, replay marks are
gone, so an envelope that may have been accepted before is refused (attack row 25): one signed up to the moment the
loss was noticed, and a skew. What was accepted before that moment was signed no later, and once its window has closed
nothing of it is left to refuse: the rule ends by itself and is never switched off.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Final, Literal

from common.connection import DEFAULT_SKEW_S
from common.envelope import MAX_LIFETIME_S
from common.errors import Unavailable
from common.ids import rfc3339

Cause = Literal["emptied", "foreign", "rolled_back"]
GENERATION: Final = "generation"
ACCEPTED: Final = "accepted"
"""The two keys, behind the node's prefix."""
TOLD: Final = {
    "emptied": "the store was emptied",
    "foreign": "the store is not the one this node worked with",
    "rolled_back": "the store is an old copy",
}


class StoreLost(Unavailable):
    """The store forgot which envelopes it accepted; those that it may have accepted are refused until they expire."""


@dataclass(frozen=True, slots=True)
class StoreMark:
    """What is remembered of a store outside it. `accepted` is the highest count that was seen, 0 before the first.

    `lost_ms` is when the last loss was noticed (0: never), `cause` why; `settled` says that what the loss left behind
    has been dealt with.
    """

    generation: str
    accepted: int = 0
    lost_ms: int = 0
    cause: str = ""
    settled: bool = True

    def encode(self) -> bytes:
        """Return the mark as it lies in its file."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def decode(cls, content: bytes) -> StoreMark:
        """Read what `encode` wrote; raises ValueError for anything else."""
        members = json.loads(content)
        if not isinstance(members, dict) or {name: type(value) for name, value in members.items()} != _MEMBERS:
            raise ValueError("not a store mark")
        return cls(**members)

    def refuses_until_s(self, skew_s: int) -> int:
        """Return the time (s) after which envelopes that are signed now are taken; 0 when nothing was ever lost."""
        return self.lost_ms // 1000 + skew_s + 1 if self.lost_ms else 0

    def windows_closed_s(self, skew_s: int) -> int:
        """Return the time (s) when no envelope from before the loss can be in its window any more."""
        return self.lost_ms // 1000 + MAX_LIFETIME_S + 2 * skew_s + 1 if self.lost_ms else 0

    def tell(self, skew_s: int, now_s: float) -> str | None:
        """Return a sentence about the last loss for an operator; None when no envelope from before it can be open."""
        if now_s >= self.windows_closed_s(skew_s):
            return None
        refused = f"envelopes signed until {rfc3339((self.refuses_until_s(skew_s) - 1) * 1000)} are refused"
        return f"{TOLD.get(self.cause, 'the store was lost')}, noticed at {rfc3339(self.lost_ms)}: {refused}"


_MEMBERS: Final = {"generation": str, "accepted": int, "lost_ms": int, "cause": str, "settled": bool}


def find_loss(known: StoreMark | None, generation: str, accepted: int) -> Cause | None:
    """Compare a store with what was known of one; None for the same, and for one that has never been used."""
    if known is None:
        return "foreign" if generation else None
    if not generation:
        return "emptied" if known.accepted else None
    if generation != known.generation:
        return "foreign"
    return "rolled_back" if accepted < known.accepted else None


class KnownStore:
    """The mark as it is now, for whoever accepts envelopes; a node without a watched store has an empty one."""

    def __init__(self, skew_s: int = DEFAULT_SKEW_S) -> None:
        self.skew_s = skew_s
        self.mark = StoreMark("")

    def saw(self, generation: str, accepted: int) -> None:
        """Take note of the counter as a store of that generation gave it; it may have been lost since."""
        if generation == self.mark.generation and accepted > self.mark.accepted:
            self.mark = replace(self.mark, accepted=accepted)

    def check_signed(self, signed_s: int) -> None:
        """Raise `StoreLost` unless an envelope signed (`iat`) at `signed_s` cannot have been accepted before a loss.

        Nothing is taken before the loss has been dealt with either: until then a spoke would say of what runs that
        there is no such agent, and its hub takes its word.
        """
        lost_ms = self.mark.lost_ms
        if not self.mark.settled or (lost_ms and signed_s * 1000 <= lost_ms + self.skew_s * 1000):
            raise StoreLost(
                f"{TOLD.get(self.mark.cause, 'the store was lost')}: envelopes that it may have accepted are refused; "
                "sign a fresh one later",
                retry_after_s=self.skew_s + 1,
            )

    def refusal(self) -> StoreLost:
        """Return the error for a store that turned out not to be the known one."""
        return StoreLost("the store is not the one this node knows; it will be looked at at once", retry_after_s=1)
