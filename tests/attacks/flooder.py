"""Sends one envelope COUNT times as fast as it is answered, over a few connections; prints how it was answered.

    flooder.py HOST PORT COUNT < ENVELOPE

Ends by itself after a minute, whatever happens.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections import Counter

LIFETIME_S = 60
CONNECTIONS = 16


async def flood(host: str, port: int, request: bytes, left: list[None], answers: Counter[str]) -> None:
    reader, writer = await asyncio.open_connection(host, port)
    while left:
        left.pop()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]))
        answers[head.split()[1].decode()] += 1
    writer.close()


async def main() -> None:
    host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    body = sys.stdin.buffer.read()
    head = "\r\n".join(
        [
            "POST /federation/v1/envelopes HTTP/1.1",
            "Host: x",
            "Content-Type: application/jose",
            f"Content-Length: {len(body)}",
        ]
    )
    request = head.encode() + b"\r\n\r\n" + body
    left: list[None] = [None] * count
    answers: Counter[str] = Counter()
    await asyncio.gather(*(flood(host, port, request, left, answers) for _ in range(CONNECTIONS)))
    sys.stdout.write(json.dumps(answers))


signal.alarm(LIFETIME_S)
asyncio.run(main())
