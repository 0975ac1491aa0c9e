"""Turns the published JSON of Wycheproof and CCTV into the two text files beside this script.

    python tests/vectors/make_vectors.py ed25519_test.json ed25519vectors.json

One line per case, grouped under its public key: `number flags signature message`, bytes in hex, `-` for nothing.
Wycheproof's expectation is the first flag, `valid` or `invalid`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent


class Case(NamedTuple):
    key: str
    number: int
    flags: list[str]
    signature: str
    message: str

    def line(self) -> str:
        words = [str(self.number), ",".join(self.flags), self.signature, self.message]
        return " ".join(word or "-" for word in words)


def wycheproof(source: Path) -> list[Case]:
    groups = json.loads(source.read_text())["testGroups"]
    return [
        Case(group["publicKey"]["pk"], test["tcId"], [test["result"], *test["flags"]], test["sig"], test["msg"])
        for group in groups
        for test in group["tests"]
    ]


def cctv(source: Path) -> list[Case]:
    return [
        Case(case["key"], case["number"], case["flags"] or [], case["sig"], case["msg"].encode().hex())
        for case in json.loads(source.read_text())
    ]


def write(target: Path, cases: Iterable[Case]) -> None:
    ordered = sorted(cases, key=lambda case: (case.key, case.number))
    lines = [
        "\n".join([f"key {key}", *(case.line() for case in group)])
        for key, group in groupby(ordered, key=lambda case: case.key)
    ]
    target.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    of_wycheproof, of_cctv = map(Path, sys.argv[1:])
    write(HERE / "wycheproof_ed25519.txt", wycheproof(of_wycheproof))
    write(HERE / "cctv_ed25519.txt", cctv(of_cctv))
