"""A process that spawns on a queue it shares with others: argv is the server's directory, prefix, first, count."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from common.valkey import connect
from spoke.queue import Queue
from spoke.queue_terms import Bounds, StepRefused
from tests.integration.spoke.queue_rig import INSTANCE, RAW, id_of, sender, spawn

QUOTA = 25


async def main(directory: str, prefix: str, first: int, count: int) -> None:
    async with connect(Path(directory)) as client:
        queue = Queue(client, INSTANCE, Bounds(), prefix)
        sys.stdin.readline()  # both begin at once

        async def accept(number: int) -> str:
            (answer,) = await queue.accept(sender(queued=QUOTA), id_of(10_000 + number), RAW, [spawn(number)])
            return answer.code if isinstance(answer, StepRefused) else "queued"

        outcomes = await asyncio.gather(*(accept(number) for number in range(first, first + count)))
    print(json.dumps(outcomes))  # noqa: T201  # what the test reads


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
