"""The spoke's own bare copy of one repository for one peer: what agents borrow objects from and never write to.

Decides how anything gets in: only by `git fetch`, which hashes every object anew, and only under an exclusive lock
that git itself inherits, so that a spoke killed half-way leaves no second writer behind. Nothing in a mirror is checked
out or executed. Peers never share one. Objects are pruned only while no workspace borrows them.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Set
from pathlib import Path
from typing import Final

from common.errors import LocalError
from common.repository import Repository
from spoke.bare_repository import lay_out
from spoke.git import Git, GitFailed
from spoke.push import PushTarget
from spoke.removal import delete_tree

_PASSING: Final = {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN}
_OF_AGENT: Final = re.compile(r"refs/hubspoke/(?:agents|preserved|bases|heads|earlier)/([0-9a-f-]{36})(?:/.*)?")
_BASES: Final = "refs/hubspoke/bases/"
_LOCK_POLL_S: Final = 0.05
_PUSH_TIMEOUT_S: Final = 120
"""An agent holds its place while it is pushed."""
# For an operator's own git in here; ours is configured anyway.
_MANY_PACKS: Final = 50
_MANY_LOOSE: Final = 5000
_NEVER_PRUNE: Final = "[gc]\n\tauto = 0\n\tpruneExpire = never\n"


class WorkspaceFailed(LocalError):
    """No workspace could be made, read or removed; `retryable` when the cause may pass (network, time, space)."""

    code = "workspace_failed"

    def __init__(self, message: str, *, retryable: bool) -> None:
        super().__init__(message)
        self.retryable = retryable


@contextlib.contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn what git or the file system says into a `WorkspaceFailed` that begins with what was being done."""
    try:
        yield
    except GitFailed as error:
        raise WorkspaceFailed(f"{doing}: {error.message}", retryable=error.retryable) from error
    except OSError as error:
        retryable = error.errno in _PASSING
        raise WorkspaceFailed(f"{doing}: {error.strerror or error}", retryable=retryable) from error


class StoredMirror:
    """The mirror at `path`, whatever repository it is of: what can be done with what is there already."""

    def __init__(self, path: Path, *, git: Git, timeout_s: float) -> None:
        self.path = path
        self._lock_path = path.with_suffix(".lock")
        self._git = git
        self._timeout_s = timeout_s

    @property
    def objects(self) -> Path:
        """The object store that workspaces borrow from."""
        return self.path / "objects"

    def used_ms(self) -> int:
        """Return when a branch was last fetched, in milliseconds since the epoch; 0 for never."""
        try:
            return self._lock_path.stat().st_mtime_ns // 1_000_000
        except FileNotFoundError:
            return 0

    async def agents(self, *, with_work: bool = False) -> set[str]:
        """Return the ids of agents that have refs here, `with_work` that made something; raises `WorkspaceFailed`."""
        refs = await self._refs_of_agents()
        return {agent for agent, ref in refs if not with_work or not ref.startswith(_BASES)}

    async def forget(self, agent_ids: Set[str]) -> None:
        """Forget all refs of these agents, their preserved work too; raises `WorkspaceFailed`."""
        with translated("cannot forget agents"):
            async with self._exclusive():
                refs = [ref for agent, ref in await self._refs_of_agents() if agent in agent_ids]
                deletions = "".join(f"delete {ref}\n" for ref in refs)
                await self.git("update-ref", "--stdin", stdin=deletions.encode())

    async def delete(self, may_go: Callable[[], Awaitable[bool]]) -> bool:
        """Delete the mirror if `may_go` still says so once nobody else can use it; raises `WorkspaceFailed`."""
        with translated("cannot delete the mirror"):
            going = self.path.with_suffix(".gone")
            await delete_tree(going)  # one that an earlier attempt could not finish
            async with self._exclusive():
                if not await may_go():
                    return False
                self.path.rename(going)
            await delete_tree(going)
        return True

    def is_cluttered(self) -> bool:
        """Whether fetches have left so many files that git is slow in it; each leaves a pack, or loose objects."""
        loose = sum(1 for _ in self.objects.glob("[0-9a-f][0-9a-f]/*"))
        return loose > _MANY_LOOSE or sum(1 for _ in self.objects.glob("pack/*.pack")) > _MANY_PACKS

    async def tidy(self, may: Callable[[], Awaitable[bool]]) -> bool:
        """Pack what refs need and drop the rest, if `may` says that nobody borrows it; raises `WorkspaceFailed`."""
        with translated("cannot tidy the mirror"):
            async with self._exclusive() as lock:
                if not await may():
                    return False
                for command in (("repack", "-a", "-d", "--quiet"), ("prune", "--expire=now")):
                    await self._git.run("--git-dir", self.path, *command, timeout_s=self._timeout_s, pass_fds=(lock,))
        return True

    async def _refs_of_agents(self) -> list[tuple[str, str]]:
        with translated("cannot read the mirror"):
            listed = await self.git("for-each-ref", "--format=%(refname)", "refs/hubspoke/")
        found = (_OF_AGENT.fullmatch(ref) for ref in listed.decode("utf-8", "replace").splitlines())
        return [(match[1], match[0]) for match in found if match]

    async def refs(self, *names: str) -> dict[str, str]:
        """Return the commits of those refs that are there; raises `WorkspaceFailed`."""
        with translated("cannot read the mirror"):
            async with self._exclusive():  # makes a mirror that is not there
                listed = await self.git("for-each-ref", "--format=%(refname) %(objectname)", *names)
        lines = (line.split(" ", 1) for line in listed.decode("utf-8", "replace").splitlines())
        return {name: sha for name, sha in lines if name in names}

    async def change_refs(self, changes: Mapping[str, str | None]) -> None:
        """Set refs, or forget those that are None and may be gone already; all or none. Objects stay."""
        lines = (f"delete {ref}" if sha is None else f"update {ref} {sha}" for ref, sha in changes.items())
        async with self._exclusive():
            await self.git("update-ref", "--stdin", stdin="".join(f"{line}\n" for line in lines).encode())

    async def push(self, sha: str, target: PushTarget) -> None:
        """Push a commit that is here; the branch may be there already if this adds to it. Raises `WorkspaceFailed`."""
        helper: tuple[str, ...] = ()
        if target.credential_helper is not None:
            helper = ("-c", f"credential.helper={target.credential_helper}", "-c", "credential.useHttpPath=true")
        # The configuration is ours, so no hook and no filter of anybody runs here.
        options = ("--quiet", "--no-verify", "--no-follow-tags", "--recurse-submodules=no", "--no-signed")
        with translated("cannot push the branch"):
            await self._git.run(
                *helper,
                *("--git-dir", self.path, "push", *options, "--", target.repository.url),
                f"{sha}:refs/heads/{target.branch}",
                timeout_s=min(self._timeout_s, _PUSH_TIMEOUT_S),
                transport=target.repository.scheme,
            )

    async def git(self, *arguments: str, stdin: bytes = b"") -> bytes:
        """Run git in the mirror, whose configuration is ours alone."""
        return await self._git.run("--git-dir", self.path, *arguments, timeout_s=self._timeout_s, stdin=stdin)

    @contextlib.asynccontextmanager
    async def _exclusive(self) -> AsyncIterator[int]:
        """Hold the mirror against every process, and hand out the lock's descriptor for children to inherit."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            await self._acquire(descriptor)
            self._recover()
            yield descriptor
        finally:
            # Closing and not unlocking: a git that outlives us still holds what it inherited.
            os.close(descriptor)

    async def _acquire(self, descriptor: int) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                while not _try_lock(descriptor):  # noqa: ASYNC110 - flock tells nobody when it becomes free
                    await asyncio.sleep(_LOCK_POLL_S)
        except TimeoutError as error:
            message = f"the mirror of this repository was in use for {self._timeout_s:g} s"
            raise WorkspaceFailed(message, retryable=True) from error

    def _recover(self) -> None:
        """Remove what a killed git left behind, and make the mirror if there is none; the lock is held."""
        if not self.path.exists():
            half_made = self.path.with_suffix(".new")
            shutil.rmtree(half_made, ignore_errors=True)
            lay_out(half_made, "ref: refs/heads/main", config=_NEVER_PRUNE)
            half_made.rename(self.path)
        for left in (*self.path.glob("*.lock"), *self.path.glob("refs/**/*.lock"), *self.objects.glob("pack/tmp_*")):
            left.unlink(missing_ok=True)


class Mirror(StoredMirror):
    """The mirror of `repository` under `directory` (of one peer), made when first fetched into."""

    def __init__(self, directory: Path, repository: Repository, *, git: Git, timeout_s: float) -> None:
        name = hashlib.sha256(repository.url.encode()).hexdigest()[:32]
        super().__init__(directory / f"{name}.git", git=git, timeout_s=timeout_s)
        self._repository = repository

    async def fetch_branch(self, branch: str, base_ref: str) -> str:
        """Fetch `branch` from its repository, keep its tip under `base_ref` too, and return the tip's sha.

        Raises `WorkspaceFailed`; a branch or a repository that is not there is not retryable.
        """
        # Named by hash: a branch `a` that has become `a/b`, or differs in case only, cannot stand in the way.
        kept = f"refs/hubspoke/branches/{hashlib.sha256(branch.encode()).hexdigest()[:32]}"
        wanted = f"refs/heads/{branch}"
        scheme = self._repository.scheme
        with translated("cannot fetch the branch"):
            async with self._exclusive() as lock:
                os.utime(lock)
                await self._fetch(lock, scheme, self._repository.url, f"+{wanted}:{kept}", f"+{wanted}:{base_ref}")
                return (await self.git("rev-parse", "--verify", "--quiet", f"{base_ref}^{{commit}}")).strip().decode()

    async def fetch_fork(self, branch: str, base_ref: str, commit: str) -> str:
        """Do what `fetch_branch` does, with the commit where ours left `branch`; the tip where there is none."""
        tip = await self.fetch_branch(branch, base_ref)
        with translated("cannot read the mirror"):
            try:
                base = (await self.git("merge-base", commit, tip)).strip().decode()
            except GitFailed as error:
                if error.retryable:
                    raise
                return tip
            await self.change_refs({base_ref: base})
        return base

    async def fetch_local(self, source: Path, *refspecs: str) -> None:
        """Take commits out of a repository of our own making on this disk; every object is hashed anew."""
        async with self._exclusive() as lock:
            await self._fetch(lock, "file", str(source), *refspecs)

    async def _fetch(self, lock: int, transport: str, source: str, *refspecs: str) -> None:
        options = ("--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--no-auto-maintenance")
        await self._git.run(
            "--git-dir",
            self.path,
            *("fetch", *options, "--", source, *refspecs),
            timeout_s=self._timeout_s,
            transport=transport,
            pass_fds=(lock,),
        )


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
