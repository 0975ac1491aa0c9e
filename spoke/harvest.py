"""Takes an agent's work out of its workspace: what it committed, and what it left uncommitted.

Decides by files and objects only. git runs in a scratch repository made here, with a configuration that no agent has
touched. Submodules and nested repositories are never entered, because asking for their state would run what their
configuration names (core.fsmonitor, filters). Ignored files and the insides of nested repositories are not taken.
"""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from spoke.agent_repository import link_objects
from spoke.bare_repository import lay_out, write_file, write_ref
from spoke.git import Git, GitFailed

_GITLINK: Final = "160000"
_NO_SHA: Final = "0" * 40
# A file that its attributes declare to be in an encoding it is not in makes `git add` give up on all files.
_NO_ENCODINGS: Final = "* !working-tree-encoding\n"
_ADD_INCOMPLETE: Final = 1
"""Exit code of `git add --ignore-errors` when it took everything it could."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The tree that holds everything the agent left, and in one line what could not be taken, if anything."""

    tree: str
    problem: str | None


class Scratch:
    """A repository at `path`, of our own making, that sees the mirror's objects and those of one agent.

    New files that match one of the patterns in `ignored` are not taken.
    """

    def __init__(self, path: Path, *, git: Git, timeout_s: float, ignored: Sequence[str] = ()) -> None:
        self.path = path
        self._ignored = ignored
        self._git = git
        self._timeout_s = timeout_s

    async def make(self, head: str, *, mirror_objects: Path, agent_repository: Path | None) -> None:
        """Lay the repository out; raises OSError, and `GitFailed` when `head` is no commit in it."""
        await asyncio.to_thread(lay_out, self.path, head, borrows_from=mirror_objects)
        exclude = "".join(f"{pattern}\n" for pattern in self._ignored)
        await asyncio.to_thread(write_file, self.path / "info" / "exclude", exclude)
        if agent_repository is not None:
            await asyncio.to_thread(link_objects, agent_repository, self.path / "objects")
        await self._run("cat-file", "-e", f"{head}^{{commit}}")

    async def snapshot(self, head: str, work_tree: Path) -> Snapshot:
        """Write the tree of everything in `work_tree` as a change of `head`; raises `GitFailed` and OSError."""
        if not _is_directory(work_tree):
            return Snapshot(await self.tree_of(head), "the working tree is gone")
        await self._run("read-tree", head)
        submodules = await self._gitlinks()
        await self._forget(submodules)
        problem = await self._add_everything(work_tree)
        nested = await self._gitlinks()
        await self._forget(nested)
        await self._put_back(submodules)
        if lost := sorted(set(nested) - set(submodules)):
            problem = f"repositories inside of the working tree are not kept: {', '.join(lost)[:200]}"
        return Snapshot((await self._run("write-tree")).strip().decode(), problem)

    async def commit(self, snapshot: Snapshot, head: str, message: str) -> str:
        """Return the sha of a commit of `snapshot` on top of `head`."""
        made = await self._run("commit-tree", snapshot.tree, "-p", head, stdin=message.encode())
        return made.strip().decode()

    def keep(self, refs: Mapping[str, str]) -> None:
        """Write refs by hand, so that they can be fetched from here; raises OSError."""
        for ref, sha in refs.items():
            write_ref(self.path, ref, sha)

    async def tree_of(self, commit: str) -> str:
        """Return the sha of a commit's tree."""
        return (await self._run("rev-parse", "--verify", f"{commit}^{{tree}}")).strip().decode()

    async def patch(self, base: str, tree: str) -> bytes:
        """Return the git patch from `base` to `tree`, binary files included."""
        return await self._run("diff-tree", "-r", "-p", "--binary", "--full-index", "--no-ext-diff", base, tree)

    async def _add_everything(self, work_tree: Path) -> str | None:
        """Add new, changed and deleted files to the index; return what git could not add, in one line."""
        problem = await self._add(work_tree)
        if problem is None or problem.exit_code == _ADD_INCOMPLETE or problem.retryable:
            return _incomplete(problem)
        await asyncio.to_thread(write_file, self.path / "info" / "attributes", _NO_ENCODINGS)
        return _incomplete(await self._add(work_tree))

    async def _add(self, work_tree: Path) -> GitFailed | None:
        try:
            await self._run("--work-tree", str(work_tree), "add", "--all", "--ignore-errors")
        except GitFailed as error:
            return error
        return None

    async def _gitlinks(self) -> dict[str, str]:
        """Return the commits of submodules and nested repositories in the index, by path."""
        entries = _records(await self._run("ls-files", "--stage", "-z"))
        links = (entry.split("\t", 1) for entry in entries if entry.startswith(_GITLINK))
        return {path: about.split(" ")[1] for about, path in links}

    async def _forget(self, paths: Iterable[str]) -> None:
        await self._index(f"0 {_NO_SHA}\t{path}" for path in paths)

    async def _put_back(self, submodules: Mapping[str, str]) -> None:
        """List the submodules again that no file has taken the place of."""
        if submodules:
            present = _records(await self._run("ls-files", "-z"))
            taken = {"/".join(name.split("/")[:depth]) for name in present for depth in range(1, name.count("/") + 2)}
            await self._index(f"{_GITLINK} {sha} 0\t{path}" for path, sha in submodules.items() if path not in taken)

    async def _index(self, entries: Iterable[str]) -> None:
        if lines := "".join(f"{entry}\0" for entry in entries):
            await self._run("update-index", "-z", "--index-info", stdin=lines.encode("utf-8", "surrogateescape"))

    async def _run(self, *arguments: str, stdin: bytes = b"") -> bytes:
        return await self._git.run("--git-dir", self.path, *arguments, timeout_s=self._timeout_s, stdin=stdin)


def _is_directory(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except FileNotFoundError:
        return False


def _records(output: bytes) -> list[str]:
    return output.decode("utf-8", "surrogateescape").split("\0")[:-1]


def _incomplete(error: GitFailed | None) -> str | None:
    if error is not None and error.exit_code != _ADD_INCOMPLETE:
        raise error
    return f"some files could not be kept: {error.message}" if error else None
