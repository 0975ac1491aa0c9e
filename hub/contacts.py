"""How delivery to a spoke goes, as `p peer:<tenant>` in Valkey keeps it. Reads, and decides nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from common import strict_json
from common.ids import rfc3339
from hub.answers import Error, Freeze

_CONTACT: Final = ("contact", "failures", "next", "error", "hello", "frozen", "tried", "answered", "failing")
_LATCH: Final = ("latch", "latch_id", "latch_state", "latch_error", "latch_killed", "latch_at", "latch_reason")
CONTACT_FIELDS: Final = (*_CONTACT, *_LATCH)


@dataclass(frozen=True, slots=True)
class Contact:
    """How delivery to a spoke goes, and what it told when it last opened a link; times in ms, 0 for never.

    `frozen` is what it said last; `freeze` the latest freeze or thaw, as the API shows it. `tried_ms` is of the last
    envelope to it, `answered_ms` of its last answer, `failing_ms` since when none of ours was answered.
    """

    last_contact_ms: int
    failures: int
    next_attempt_ms: int
    last_error: Error | None
    pending: int
    hello: dict[str, Any] | None = None
    frozen: bool = False
    freeze: Freeze | None = None
    tried_ms: int = 0
    answered_ms: int = 0
    failing_ms: int = 0


def read_contact(known: Sequence[bytes | None], ready: int, deferred: int) -> Contact:
    """Read the values of `CONTACT_FIELDS`, with how many commands are ready for the spoke and how many are put off."""
    contact, failures, following, error, hello, frozen, tried, answered, failing = known[: len(_CONTACT)]
    return Contact(
        last_contact_ms=int(contact or 0),
        failures=int(failures or 0),
        next_attempt_ms=int(following or 0),
        last_error=strict_json.parse(error) if error else None,
        pending=ready + deferred,
        hello=strict_json.parse(hello) if hello else None,
        frozen=frozen == b"1",
        freeze=_read_latch(known[len(_CONTACT) :]),
        tried_ms=int(tried or 0),
        answered_ms=int(answered or 0),
        failing_ms=int(failing or 0),
    )


def _read_latch(values: Sequence[bytes | None]) -> Freeze | None:
    texts: list[Any] = [(value or b"").decode() for value in values]
    kind, command_id, state, error, killed, at, reason = texts
    if not command_id:
        return None
    return {
        "asked": kind,
        "commandId": command_id,
        "state": state,
        "lastError": strict_json.parse(error.encode()) if error else None,
        "killed": int(killed) if killed else None,
        "reason": reason or None,
        "at": rfc3339(int(at)),
    }
