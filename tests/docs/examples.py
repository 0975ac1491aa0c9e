"""What a page shows held beside what a program printed: example values stand for real ones.

An id, a fingerprint, a key, a token or an invite on a page is an example. It stands for the first real one that is met
in its place, and for that one from then on, in commands too: `hub logs ID` reads the log of the agent whose id the
page shows. Times, durations, sizes, versions and commits stand for any of their kind, `…` for anything within a line,
and a line that is only `…` for any lines. White space counts as one blank, since columns are as wide as what is in
them.
"""

from __future__ import annotations

import difflib
import re
from typing import Final

BOUND: Final = {
    "invite": (r"hubspoke1\.[\w-]+…?", r"hubspoke1\.[\w-]+"),
    "fingerprint": (r"SHA256:[\w-]{43}", r"SHA256:[\w-]{43}"),
    "key": (r"ed25519:[\w-]{43}", r"ed25519:[\w-]{43}"),
    "token": (r"hst_[\w-]+…?", r"hst_[\w-]+"),
    "id": (r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"),
}
"""By name: how the example is written on a page, and what it stands for."""
_FREE: Final = {
    "position": r"\b(?:\d{13}|0)-\d+\b",
    "seconds": r"\b\d{10}\b",
    "signature": r"\bv1,[\w+/]{43}=",
    "time": r"\b\d{4}-\d\d-\d\dT[\d:.]+Z",
    "date": r"\b\d{4}-\d\d-\d\d\b",
    "ago": r"(?:\b\d+ (?:s|min|h|d|days?) ago|\bnow\b)",
    "amount": r"\b\d+(?:\.\d+)? (?:days?|d|h|min|s|ms|[KMG]iB|bytes)\b",
    "version": r"(?<![\d.])\d+\.\d+\.\d+(?![\d.])",
    "commit": r"\b(?=[a-f]*\d)[0-9a-f]{7,40}\b",
}
_TOKEN: Final = re.compile(
    "|".join(
        [
            *(f"(?P<{name}>{shown})" for name, (shown, _) in BOUND.items()),
            *(f"(?P<{name}>{pattern})" for name, pattern in _FREE.items()),
            r"(?P<anything>…)",
            r"(?P<blank>\s+)",
        ]
    )
)


class Mismatch(AssertionError):
    """The page shows what the program does not print."""


class Examples:
    """The example values of one page and what they stand for."""

    def __init__(self) -> None:
        self._real: dict[str, str] = {}

    def fill(self, command: str) -> str:
        """Return a command with the real values in place of those of the page."""
        for shown in sorted(self._real, key=len, reverse=True):
            command = command.replace(shown, self._real[shown])
        return command

    def fits(self, shown: str, printed: str) -> bool:
        """Whether the page shows what was printed."""
        return self._match(shown, printed) is not None

    def check(self, shown: str, printed: str) -> None:
        """Take the real values from what was printed; raises `Mismatch`."""
        found = self._match(shown, printed)
        if found is None:
            lines = difflib.unified_diff(shown.splitlines(), printed.splitlines(), "page", "printed", lineterm="")
            raise Mismatch("\n".join(lines))
        self._real.update(found)

    def _match(self, shown: str, printed: str) -> dict[str, str] | None:
        names: dict[str, str] = {}
        pattern = "".join(self._line(line.strip(), names) for line in shown.splitlines())
        found = re.fullmatch(pattern, "".join(f"{line.strip()}\n" for line in printed.splitlines()))
        return None if found is None else {example: found[group] for example, group in names.items()}

    def _line(self, line: str, names: dict[str, str]) -> str:
        if line == "…":
            return r"(?:[^\n]*\n)*?"
        pattern, end = "", 0
        for found in _TOKEN.finditer(line):
            pattern += re.escape(line[end : found.start()]) + self._token(found, names)
            end = found.end()
        return pattern + re.escape(line[end:]) + r"\n"

    def _token(self, found: re.Match[str], names: dict[str, str]) -> str:
        kind, example = found.lastgroup or "", found[0]
        if kind in BOUND:
            if example in self._real:
                return re.escape(self._real[example])
            if example in names:
                return f"(?P={names[example]})"
            names[example] = f"real{len(names)}"
            return f"(?P<{names[example]}>{BOUND[kind][1]})"
        return {"anything": r"[^\n]*?", "blank": r"[^\S\n]+"}.get(kind) or _FREE[kind]
