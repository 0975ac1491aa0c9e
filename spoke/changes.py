"""What an agent changed, in the terms of a result (PROTOCOL section 4), and how git's answers about it are read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

MAX_COMMITS: Final = 100
_MAX_SUBJECT: Final = 200
_STAT: Final = re.compile(r"(\d+) (file|insertion|deletion)")

LOG_FORMAT: Final = ("-z", "--reverse", f"--max-count={MAX_COMMITS}", "--no-show-signature", "--format=%H %s")
"""Options of `git log` whose output `parse_log` reads."""


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit of an agent; the subject is printable and at most 200 characters."""

    sha: str
    subject: str


@dataclass(frozen=True, slots=True)
class DiffStat:
    """How much differs between the branch's tip at the start and everything the agent left."""

    files: int = 0
    insertions: int = 0
    deletions: int = 0


@dataclass(frozen=True, slots=True)
class Changes:
    """What an agent did to its workspace; refs are those of the mirror.

    `commits` has the newest last, at most 100. `problem` says in one line what could not be read or kept, if anything.
    """

    branch: str
    head: str
    commits: tuple[Commit, ...]
    diff_stat: DiffStat
    preserved_ref: str | None = None
    problem: str | None = None

    def __bool__(self) -> bool:
        """Whether there is any: a commit, or work that was not committed."""
        return bool(self.commits or self.preserved_ref or self.diff_stat.files)


def parse_log(output: bytes) -> tuple[Commit, ...]:
    """Read the output of `git log` with `LOG_FORMAT`."""
    records = output.decode("utf-8", "replace").split("\0")
    return tuple(Commit(sha, _printable(subject)) for sha, _, subject in (r.partition(" ") for r in records if r))


def parse_shortstat(output: bytes) -> DiffStat:
    """Read the output of `git diff-tree --shortstat`."""
    numbers = {noun: int(number) for number, noun in _STAT.findall(output.decode())}
    return DiffStat(numbers.get("file", 0), numbers.get("insertion", 0), numbers.get("deletion", 0))


def _printable(subject: str) -> str:
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in subject)[
        :_MAX_SUBJECT
    ]
