"""Who answers at a URL, and by which clock: for `spoke doctor`."""

from __future__ import annotations

from typing import Final

from aiohttp import ClientSession

from common.clock import SystemClock
from common.envelope import ANYONE, EnvelopeType
from common.introduction import Introduction, introduce
from common.post import fetch
from spoke.finding import Finding

_CLOCK_LIMIT_S: Final = 10
_ANY_SKEW_S: Final = 10 * 365 * 86_400
_IDENTITY_PATH: Final = "/federation/v1/identity"


async def ask_who_answers(session: ClientSession, url: str) -> Introduction:
    """Return what the instance at a URL says of itself, whatever its clock; raises `HubspokeError`."""
    raw = await fetch(session, "GET", url + _IDENTITY_PATH)
    now_s = SystemClock().now_ms() / 1000
    return introduce(raw, EnvelopeType.IDENTITY, audience=ANYONE, now_s=now_s, skew_s=_ANY_SKEW_S)


def compare_clocks(check: str, said: Introduction, otherwise: str) -> Finding:
    """Return that the clocks are too far apart, or that all is well: `otherwise`."""
    skew_s = round(said.claims.iat - SystemClock().now_ms() / 1000)
    if abs(skew_s) > _CLOCK_LIMIT_S:
        return Finding(check, "bad", f"its clock differs from ours by {skew_s} s", "run a time service on both")
    return Finding(check, "ok", f"{otherwise}, clock within {_CLOCK_LIMIT_S} s")
