"""`make bench`: how many signed spawns a second a hub gets accepted by a spoke, beside what others do unsigned.

One run measures everything on the same machine in turn, and prints medians of the latency and the rates as ratios,
because absolute numbers of a shared machine mean little. Both ends are durable (`appendfsync always`): a spawn counts
once it was in the hub's outbox, crossed the network signed, was verified, was in the spoke's queue, and the reply was
recorded.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.bench.measure import Measured, measure
from tests.bench.others import NATS_SERVER, bare_xadd, celery_auth, jetstream, saq_enqueue
from tests.bench.round_trip import signed_round_trip
from tests.bench.spawns import spawns_by_link, spawns_by_post

IN_FLIGHT: Final = (1, 64, 512)
Bench = Callable[[Path, int, float], Awaitable[Measured]]

BENCHES: Final[Mapping[str, Bench]] = {
    "signed round trip": signed_round_trip,
    "bare XADD": bare_xadd,
    "saq enqueue": saq_enqueue,
    "celery, auth": celery_auth,
    "NATS JetStream": jetstream,
    "hubspoke, POST": spawns_by_post,
    "hubspoke, link": spawns_by_link,
}
_YARDSTICKS: Final = ("bare XADD", "saq enqueue", "celery, auth")
_WIDTHS: Final = (9, 8, 11)
_NOT_INSTALLED: Final = {"NATS JetStream"} if NATS_SERVER is None else set[str]()
_LEAST_MS: Final = 0.005
"""What takes less processor time for one call is not named."""


async def run(seconds: float, scratch: Path, in_flights: Sequence[int], only: Sequence[str]) -> None:
    """Measure and print the table."""
    print(
        f"{'':<18}{'in flight':>10}{'per second':>12}{'p50 ms':>9}{'p99 ms':>9}{'of XADD':>9}{'of saq':>8}"
        f"{'of celery':>11}{'CPU ms':>8}  of which"
    )
    for in_flight in in_flights:
        rates: dict[str, float] = {}
        for name in only:
            if name in _NOT_INSTALLED:
                print(f"{name:<18}{in_flight:>10}  not installed", flush=True)
                continue
            found = await BENCHES[name](scratch, in_flight, seconds)
            rates[name] = found.per_second
            print(f"{name:<18}{in_flight:>10}{_row(found, rates)}", flush=True)


def _row(found: Measured, rates: Mapping[str, float]) -> str:
    ratios = "".join(
        f"{found.per_second / rates[other]:>{width}.2f}" if other in rates else " " * width
        for other, width in zip(_YARDSTICKS, _WIDTHS, strict=True)
    )
    parts = ", ".join(f"{part} {ms:.2f}" for part, ms in found.cpu_ms.items() if ms >= _LEAST_MS)
    times = f"{found.per_second:>12.0f}{found.p50_ms:>9.2f}{found.p99_ms:>9.2f}"
    return f"{times}{ratios}{sum(found.cpu_ms.values()):>8.2f}  {parts}"


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="for each line of the table")
    parser.add_argument("--in-flight", type=int, nargs="+", default=IN_FLIGHT, help="calls under way at a time")
    parser.add_argument("--only", nargs="+", choices=BENCHES, default=tuple(BENCHES), help="these lines")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hubspoke-bench-") as scratch:
        asyncio.run(run(options.seconds, Path(scratch), options.in_flight, options.only))


__all__ = ["BENCHES", "main", "measure"]

if __name__ == "__main__":
    main()
