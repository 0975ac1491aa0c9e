"""Decides whether a text is a branch name, by the rules of `git check-ref-format --branch`.

Refuses what git refuses, and more surely: `-` in front (an option), `@{-1}` and `@` (which git reads as another branch
or HEAD), names over 255 bytes and text that is no UTF-8 (attack row 51). A name that passes can follow `refs/heads/`
in any git command.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from common.errors import Invalid

MAX_BRANCH_BYTES: Final = 255

# git's refs.c: control characters, space, and what revision or glob syntax would read as something else.
_FORBIDDEN: Final = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{")
_RESERVED: Final = frozenset({"HEAD", "@"})


@lru_cache(maxsize=1024)  # a batch of a thousand spawns names few branches
def check_branch(name: str) -> str:
    """Return `name` unchanged when git would create a branch of that name, else raise `Invalid` (attack row 51)."""
    if problem := _problem(name):
        raise Invalid(f"branch: {problem}")
    return name


def check_branch_glob(glob: str) -> str:
    """Return `glob` when some branch could match it, else raise `Invalid`: for whoever takes a policy."""
    # A part that is not empty in place of each star: what is no branch then, is none ever.
    check_branch(glob.replace("*", "x"))
    return glob


def match_branch(globs: Iterable[str], name: str) -> str | None:
    """Return the first glob that covers the branch, or None; `*` crosses no `/`, a part `**` stands for any parts.

    A glob that no branch could match covers nothing; `check_branch_glob` says why.
    """
    return next((glob for glob in globs if _compile_glob(glob).match(name)), None)


@lru_cache(maxsize=1024)
def _compile_glob(glob: str) -> re.Pattern[str]:
    between = re.escape(glob).replace(r"\*\*/", "(?:[^/]+/)*").replace(r"\*\*", ".+")
    return re.compile(between.replace(r"\*", "[^/]*") + r"\Z")


def _problem(name: str) -> str | None:
    if not 0 < _encoded_length(name) <= MAX_BRANCH_BYTES:
        return f"not 1 to {MAX_BRANCH_BYTES} bytes of UTF-8"
    if name.startswith("-"):
        return "begins with '-', which git would read as an option"
    if name in _RESERVED:
        return "is a name that git keeps for itself"
    if _FORBIDDEN.search(name):
        return "has white space, control characters, '..', '@{' or one of ~ ^ : ? * [ \\"
    if any(not part or part.startswith(".") or part.endswith(".lock") for part in name.split("/")):
        return "has a part that is empty, begins with '.' or ends with '.lock'"
    return "ends with '.'" if name.endswith(".") else None


def _encoded_length(name: str) -> int:
    try:
        return len(name.encode())
    except UnicodeEncodeError:
        return 0
