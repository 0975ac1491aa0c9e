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
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

from tests.bench.measure import Measured, measure
from tests.bench.others import bare_xadd, saq_enqueue
from tests.bench.spawns import signed_spawns

IN_FLIGHT: Final = (1, 64, 512)
Bench = Callable[[Path, int, float], Awaitable[Measured]]

BENCHES: Final[Mapping[str, Bench]] = {
    "bare XADD": bare_xadd,
    "saq enqueue": saq_enqueue,
    "hubspoke, POST": signed_spawns,
}


async def run(seconds: float, scratch: Path) -> None:
    """Measure and print the table."""
    print(f"{'':<16}{'in flight':>10}{'per second':>12}{'p50 ms':>9}{'p99 ms':>9}{'of XADD':>9}{'of saq':>8}")
    for in_flight in IN_FLIGHT:
        rates: dict[str, float] = {}
        for name, bench in BENCHES.items():
            found = await bench(scratch, in_flight, seconds)
            rates[name] = found.per_second
            ratios = "".join(
                f"{found.per_second / rates[other]:>{width}.2f}" if other in rates else " " * width
                for other, width in (("bare XADD", 9), ("saq enqueue", 8))
            )
            print(
                f"{name:<16}{in_flight:>10}{found.per_second:>12.0f}{found.p50_ms:>9.2f}{found.p99_ms:>9.2f}{ratios}",
                flush=True,
            )


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="for each line of the table")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hubspoke-bench-") as scratch:
        asyncio.run(run(options.seconds, Path(scratch)))


__all__ = ["BENCHES", "main", "measure"]

if __name__ == "__main__":
    main()
