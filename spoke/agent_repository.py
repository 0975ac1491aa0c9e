"""Reads an agent's own repository without running git in it, for its configuration is the agent's to write.

Decides what of it counts: the worktree's HEAD, branches with valid names, and object files. Takes those by hard link
into a scratch repository of the spoke's making, where git then runs with a clean configuration. Refuses, by not
following them, symbolic links, `commondir`, alternates and every other way to lead the spoke to another tenant's
objects (attack row 37).
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from common.branch import check_branch
from common.errors import Invalid

WORKTREE: Final = "tree"
"""What git calls the one worktree: the last part of its path."""

_MAX_REF_FILE: Final = 4096
_MAX_PACKED_REFS: Final = 4 * 1024 * 1024
_MAX_BRANCHES: Final = 1000
_MAX_OBJECT_FILES: Final = 200_000

_SHA: Final = re.compile(r"[0-9a-f]{40}")
_HEADS: Final = "refs/heads/"
_PACKED: Final = re.compile(r"^([0-9a-f]{40}) refs/heads/(.+)$", re.MULTILINE)
_LOOSE_DIRECTORY: Final = re.compile(r"[0-9a-f]{2}")
_LOOSE_OBJECT: Final = re.compile(r"[0-9a-f]{38}")
_PACK: Final = re.compile(r"pack-[0-9a-f]{40}\.(pack|idx)")
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: a FIFO in the place of a file must not be waited for.
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class AgentRefs:
    """Where an agent left its worktree's HEAD (None: nowhere that can be read) and its branches; shas are claims."""

    head: str | None = None
    branches: dict[str, str] = field(default_factory=dict)


def read_refs(repository: Path) -> AgentRefs:
    """Read HEAD and branches of an agent's repository; what is broken or no regular file is as if absent."""
    try:
        with _opened(repository) as root:
            branches = _packed_branches(root) | dict(_loose_branches(root))
            branches = dict(list(branches.items())[:_MAX_BRANCHES])
            return AgentRefs(_worktree_head(root, branches), branches)
    except (OSError, RecursionError):
        return AgentRefs()


def _worktree_head(root: int, branches: dict[str, str]) -> str | None:
    try:
        with _opened("worktrees", root) as worktrees, _opened(WORKTREE, worktrees) as worktree:
            text = _read_regular("HEAD", worktree, _MAX_REF_FILE).strip()
    except OSError:
        return None
    if text.startswith(f"ref: {_HEADS}"):
        return branches.get(text.removeprefix(f"ref: {_HEADS}"))
    return text if _SHA.fullmatch(text) else None


def _packed_branches(root: int) -> dict[str, str]:
    try:
        text = _read_regular("packed-refs", root, _MAX_PACKED_REFS)
    except OSError:
        return {}
    return {name: sha for sha, name in _PACKED.findall(text) if _is_branch(name)}


def _loose_branches(root: int) -> Iterator[tuple[str, str]]:
    with suppress(OSError), _opened("refs", root) as refs:
        for directory, _, names, descriptor in os.fwalk("heads", dir_fd=refs, follow_symlinks=False):
            for name in names:
                branch = f"{directory}/{name}".removeprefix("heads/")
                with suppress(OSError):
                    sha = _read_regular(name, descriptor, _MAX_REF_FILE).strip()
                    if _SHA.fullmatch(sha) and _is_branch(branch):
                        yield branch, sha


def _is_branch(name: str) -> bool:
    try:
        check_branch(name)
    except Invalid:
        return False
    return True


def link_objects(repository: Path, objects: Path) -> None:
    """Hard-link the object files of an agent's repository into `objects`, on the same file system.

    Raises OSError; the hashes of what is linked are still to be checked by whoever reads it.
    """
    with _opened(repository) as root, _opened("objects", root) as source:
        left = _MAX_OBJECT_FILES
        for directory in os.listdir(source):  # noqa: PTH208 - a descriptor, not a path: it cannot be exchanged
            pattern = _PACK if directory == "pack" else _LOOSE_OBJECT
            if directory == "pack" or _LOOSE_DIRECTORY.fullmatch(directory):
                with _opened(directory, source) as descriptor:
                    left -= _link_files(descriptor, pattern, objects / directory)
            if left < 0:
                raise OSError(0, "the agent's repository holds too many object files")


def _link_files(source: int, pattern: re.Pattern[str], target: Path) -> int:
    target.mkdir(exist_ok=True)
    names = [name for name in os.listdir(source) if pattern.fullmatch(name)]
    for name in names:
        os.link(name, target / name, src_dir_fd=source, follow_symlinks=False)
        # Looked at after the fact, on our side: the agent cannot exchange it any more.
        if not stat.S_ISREG((target / name).lstat().st_mode):
            (target / name).unlink()
    return len(names)


@contextmanager
def _opened(name: str | Path, parent: int | None = None) -> Iterator[int]:
    """Open one directory, never through a symbolic link, and close it again."""
    with ExitStack() as stack:
        descriptor = os.open(name, _DIRECTORY, dir_fd=parent)
        stack.callback(os.close, descriptor)
        yield descriptor


def _read_regular(name: str, parent: int, limit: int) -> str:
    descriptor = os.open(name, _FILE, dir_fd=parent)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(0, "no regular file")
        return os.read(descriptor, limit).decode("utf-8", "replace")
    finally:
        os.close(descriptor)
