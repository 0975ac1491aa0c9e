"""What the fuzz targets share: where their findings go, and a corpus that begins with good input.

Run by `make fuzz`, which installs atheris; the tests do not need it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from hashlib import sha256
from pathlib import Path

import atheris

BUILD = Path(__file__).parents[2] / "build" / "fuzz"


def fuzz(name: str, target: Callable[[bytes], None], seeds: Iterable[bytes]) -> None:
    """Feed `target` for as long as the command line says; what makes it raise is kept in `build/fuzz/NAME`."""
    corpus = BUILD / name / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        (corpus / sha256(seed).hexdigest()).write_bytes(seed)
    found = f"-artifact_prefix={BUILD / name}/"
    atheris.Setup([*sys.argv, found, "-max_len=20000", "-rss_limit_mb=2048", "-timeout=20", str(corpus)], target)
    atheris.Fuzz()
