"""An agent that prints a great deal: `lines MIB`, `line MIB` (one), `bytes MIB` (no UTF-8), `ansi MIB`."""

from __future__ import annotations

import json
import os
import sys

MIB = 1024 * 1024
KINDS = {
    "lines": b"an ordinary line of what a program prints while it works, number and all: 0123456789\n",
    "line": b"x",
    "bytes": bytes(range(128, 256)) + b"\xc3\xe2\x82\xf0\x9f\n",
    # Clear, home, title, a colour, a bell, a link: what would take a terminal over.
    "ansi": b"\x1b[2J\x1b[H\x1b]0;owned\x07\x1b[31m\x1b]8;;http://x.invalid\x1b\\click\x1b]8;;\x1b\\\x07\r\n",
}

if __name__ == "__main__":
    for item in json.load(sys.stdin)["context"]["workItems"]:
        kind, mib = item.split()
        piece = KINDS[kind]
        chunk = (piece * (MIB // len(piece) + 1))[: MIB // len(piece) * len(piece)]
        for _ in range(int(mib)):
            view = memoryview(chunk)
            while view:
                view = view[os.write(1, view) :]
        os.write(1, b"\n")
