"""What the fuzz targets share: where their findings go, and a corpus that begins with good input.

Run by `make fuzz`, which installs atheris; the tests do not need it. `test_planted.py` shows that each target finds
bugs of its kind: it names one of `planted.PLANTS` in the environment, which only these targets read.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable
from hashlib import sha256
from pathlib import Path

import atheris

BUILD = Path(__file__).parents[2] / "build" / "fuzz"
WORDS = (
    *("{", "}", "[", "]", ",", ":", "null", "true", "1e999", "9007199254740992", "NaN", "\\ud800", "[" * 40),
    *(',"x":1', ',"crit":["b64"]', ',"b64":false', ',"jwk":{}', '"alg":"none"', '"alg":"EdDSA"', '"typ":"JWT"'),
    *(
        "HTTP/1.1",
        "HTTP/1.0",
        "HTTP/0.9",
        "GET / HTTP/2.0",
        "Content-Length: 0",
        "Transfer-Encoding: chunked",
        "\r\n\r\n",
    ),
)
"""What an attacker would write, for the fuzzer to build with."""
_ESCAPED = {ord('"'): '\\"', ord("\\"): "\\\\", ord("\r"): "\\x0d", ord("\n"): "\\x0a"}


def fuzz(name: str, target: Callable[[bytes], None], seeds: Iterable[bytes], planted: str | None) -> None:
    """Feed `target` for as long as the command line says; what makes it raise is kept in `build/fuzz/NAME`.

    A bug that was `planted` is looked for with the seeds alone.
    """
    home = BUILD / name
    if planted is not None:
        home = BUILD / "planted" / f"{name}-{planted}"
        shutil.rmtree(home, ignore_errors=True)
    corpus = home / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        (corpus / sha256(seed).hexdigest()).write_bytes(seed)
    words = home / "words"
    words.write_text("".join(f'"{word.translate(_ESCAPED)}"\n' for word in WORDS))
    found = f"-artifact_prefix={home}/"
    bounds = ["-max_len=20000", "-rss_limit_mb=2048", "-timeout=20"]
    atheris.Setup([*sys.argv, found, f"-dict={words}", *bounds, str(corpus)], target)
    atheris.Fuzz()
