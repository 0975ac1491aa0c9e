"""Workspaces: one git worktree per agent, made from a mirror of its repository, read and removed in the end.

Decides what an agent may write: its own bare repository and its own tree, never the mirror it borrows objects from; and
no peer sees another's objects. Reads results without running git on anything that an agent could configure (attack row
52). Removes nothing whose uncommitted work is not kept under a ref of the mirror (fault row 30). A workspace counts as
made once `workspace.json` is there; whatever else lies in its place is swept away.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from common.errors import CommandRefused
from common.repository import Repository, parse_repository
from spoke.agent_repository import WORKTREE, AgentRefs, read_refs
from spoke.bare_repository import lay_out, lay_out_worktree, write_ref
from spoke.changes import LOG_FORMAT, Changes, parse_log, parse_shortstat
from spoke.git import Git, GitFailed
from spoke.harvest import Scratch
from spoke.mirror import Mirror, StoredMirror, WorkspaceFailed, translated
from spoke.push import PushTarget
from spoke.removal import delete_tree
from spoke.workspace_places import RECORD, Places

__all__ = ["Changes", "Workspace", "WorkspaceFailed", "Workspaces"]

_MAX_BRANCHES: Final = 100
_COLLECTED: Final = "collected"
_MESSAGE: Final = "Uncommitted work of agent {agent_id}\n\nKept by hubspoke when the agent had ended.\n"


@dataclass(frozen=True, slots=True)
class Workspace:
    """Where one agent works: in `tree`, a worktree of its own bare `repo`, from commit `base` of the branch asked for.

    `objects` is the mirror's object store, which a sandbox has to show the agent, read-only.
    """

    peer: str
    agent_id: str
    repository: Repository
    asked_branch: str
    base: str
    path: Path
    objects: Path

    @property
    def tree(self) -> Path:
        """The agent's working directory."""
        return self.path / WORKTREE

    @property
    def repo(self) -> Path:
        """The agent's own bare repository."""
        return self.path / "repo.git"

    @property
    def branch(self) -> str:
        """The branch that is checked out for the agent."""
        return f"hubspoke/{self.agent_id}"


class Workspaces:
    """The workspaces under `root`, for any number of worker processes; `timeout_s` bounds each call of git.

    New files that match one of the patterns in `ignored` are nobody's work, besides what the repository ignores.
    One agent's workspace is for one caller at a time; different agents may share a repository at the same moment.
    """

    def __init__(
        self, root: Path, *, git: Git, timeout_s: float = 600, ignored: Callable[[], Sequence[str]] = tuple
    ) -> None:
        self.places = Places(root.absolute())
        """Where everything lies."""
        self._git = git
        self._timeout_s = timeout_s
        self._ignored = ignored

    async def prepare(self, peer: str, agent_id: str, repository: Repository, branch: str) -> Workspace:
        """Make the workspace of one agent, on a branch of its own at the tip of `branch`; anew if there was one.

        What an earlier attempt left is kept first, under `refs/hubspoke/earlier/AGENT/`. Raises `WorkspaceFailed`; a
        missing branch or repository is not retryable.
        """
        path = self.places.agent(peer, agent_id)
        if earlier := self.open(peer, agent_id):
            with suppress(WorkspaceFailed):
                await self._collect(earlier, superseded=True)
        mirror = self._mirror(peer, repository)
        base = await mirror.fetch_branch(branch, _base_ref(agent_id))
        workspace = Workspace(peer, agent_id, repository, branch, base, path, mirror.objects)
        with translated("cannot prepare the workspace"):
            await self._delete(path)
            await self._check_out(workspace, base)
            await asyncio.to_thread(_write_record, workspace)
        return workspace

    async def restore(self, peer: str, agent_id: str, repository: Repository, branch: str) -> Workspace:
        """Make the workspace of one agent as the agent left it: its branch at its last commit, the rest uncommitted.

        What git ignores is not kept, and its other branches are only in the mirror. One of which nothing is kept is
        prepared like a new one. Raises as `prepare` does.
        """
        path = self.places.agent(peer, agent_id)
        if left := self.open(peer, agent_id):
            await self._collect(left, superseded=False)
        mirror = self._mirror(peer, repository)
        ends = _agent_ref(agent_id), _preserved_ref(agent_id)
        kept = await mirror.refs(_base_ref(agent_id), *ends)
        base = kept.pop(_base_ref(agent_id), None)
        if base is None and not kept:
            return await self.prepare(peer, agent_id, repository, branch)
        if base is None:  # kept by a release that did not note where an agent began
            base = await mirror.fetch_fork(branch, _base_ref(agent_id), next(iter(kept.values())))
        head = kept.get(_agent_ref(agent_id), base)
        workspace = Workspace(peer, agent_id, repository, branch, base, path, mirror.objects)
        with translated("cannot restore the workspace"):
            await mirror.change_refs({_earlier_ref(agent_id, sha): sha for sha in kept.values()})
            await self._delete(path)
            await self._check_out(workspace, kept.get(_preserved_ref(agent_id), head))
            await self._run("-C", str(workspace.tree), "reset", "--quiet", "--mixed", head)
            await asyncio.to_thread(_write_record, workspace)
            # From now on the workspace says how far the agent is.
            await mirror.change_refs(dict.fromkeys(ends))
        return workspace

    def open(self, peer: str, agent_id: str) -> Workspace | None:
        """Return the workspace that `prepare` has made, in this process or an earlier one, or None."""
        workspace = self.find(peer, agent_id)
        if workspace is not None:
            # Whoever opens it may let an agent work in it again.
            (workspace.path / _COLLECTED).unlink(missing_ok=True)
        return workspace

    def find(self, peer: str, agent_id: str) -> Workspace | None:
        """Return what `open` does, to look at it only."""
        path = self.places.agent(peer, agent_id)
        try:
            record = json.loads((path / RECORD).read_bytes())
            repository = parse_repository(record["repository"])
        except (OSError, ValueError, KeyError, TypeError, CommandRefused):
            return None
        objects = self._mirror(peer, repository).objects
        return Workspace(peer, agent_id, repository, record["branch"], record["base"], path, objects)

    async def collect(self, workspace: Workspace) -> Changes:
        """Bring the commits and the uncommitted work of an agent that has ended into the mirror; tell what changed.

        Raises `WorkspaceFailed`.
        """
        changes = await self._collect(workspace, superseded=False)
        await asyncio.to_thread((workspace.path / _COLLECTED).touch)
        return changes

    async def patch(self, workspace: Workspace) -> bytes:
        """Return the git patch from the base to everything in the tree now, at most 64 MiB; the agent may still run.

        Raises `WorkspaceFailed`.
        """
        refs = await asyncio.to_thread(read_refs, workspace.repo)
        head = _head(workspace, refs)
        with translated("cannot read the workspace"):
            async with self._scratch(workspace, head, AgentRefs(refs.head)) as scratch:
                snapshot = await scratch.snapshot(head, workspace.tree)
                return await scratch.patch(workspace.base, snapshot.tree)

    async def push(self, workspace: Workspace, sha: str, target: PushTarget) -> None:
        """Push a commit that was collected; raises `WorkspaceFailed`."""
        await self._mirror_of(workspace).push(sha, target)

    async def remove(self, workspace: Workspace) -> None:
        """Delete the workspace, whether gone already or not; collects first unless that was done last.

        Where it began stays known in the mirror, for `restore`. Raises `WorkspaceFailed`; the work is still there then.
        """
        if (workspace.path / RECORD).exists() and not (workspace.path / _COLLECTED).exists():
            await self.collect(workspace)
        with translated("cannot remove the workspace"):
            await self._delete(workspace.path)

    async def discard(self, peer: str, agent_id: str) -> None:
        """Delete what lies in the place of a workspace, whole or half-made, without keeping anything of it.

        Raises `WorkspaceFailed`.
        """
        with translated("cannot delete the workspace"):
            await self._delete(self.places.agent(peer, agent_id))

    def mirrors(self) -> list[tuple[str, StoredMirror]]:
        """Return (peer, mirror) of all mirrors."""
        found = self.places.mirrors()
        return [(path.parent.name, StoredMirror(path, git=self._git, timeout_s=self._timeout_s)) for path in found]

    async def _check_out(self, workspace: Workspace, commit: str) -> None:
        workspace.path.mkdir(parents=True, mode=0o700)
        ref = f"refs/heads/{workspace.branch}"
        lay_out(workspace.repo, f"ref: {ref}", borrows_from=workspace.objects)
        lay_out_worktree(workspace.repo, workspace.tree, f"ref: {ref}")
        write_ref(workspace.repo, ref, commit)
        await self._run("-C", str(workspace.tree), "reset", "--quiet", "--hard")

    async def _collect(self, workspace: Workspace, *, superseded: bool) -> Changes:
        """Try with all of the agent's branches, then with its HEAD alone, then with its files alone."""
        refs = await asyncio.to_thread(read_refs, workspace.repo)
        problem = None
        with translated("cannot read the workspace"):
            for attempt in (refs, AgentRefs(refs.head)):
                try:
                    return await self._bring_in(workspace, attempt, problem, superseded=superseded)
                except (GitFailed, OSError) as error:
                    if isinstance(error, GitFailed) and error.retryable:
                        raise
                    problem = f"the agent's commits cannot all be read: {error}"
            return await self._bring_in(workspace, AgentRefs(), problem, superseded=superseded)

    async def _bring_in(
        self, workspace: Workspace, refs: AgentRefs, problem: str | None, *, superseded: bool
    ) -> Changes:
        head = final = _head(workspace, refs)
        async with self._scratch(workspace, head, refs) as scratch:
            snapshot = await scratch.snapshot(head, workspace.tree)
            if snapshot.tree != await scratch.tree_of(head):
                final = await scratch.commit(snapshot, head, _MESSAGE.format(agent_id=workspace.agent_id))
            kept = _kept_refs(workspace, refs, head, final, superseded=superseded)
            if kept:
                await asyncio.to_thread(scratch.keep, kept)
                # Everything that comes in is hashed anew: the agent's object files are only claims.
                await self._mirror_of(workspace).fetch_local(scratch.path, "+refs/hubspoke/*:refs/hubspoke/*")
        preserved = None if final == head or superseded else _preserved_ref(workspace.agent_id)
        return await self._changes(workspace, head, final, preserved, problem or snapshot.problem)

    async def _changes(
        self, workspace: Workspace, head: str, final: str, preserved_ref: str | None, problem: str | None
    ) -> Changes:
        mirror = self._mirror_of(workspace)
        log = await mirror.git("log", *LOG_FORMAT, f"{workspace.base}..{head}")
        stat = await mirror.git("diff-tree", "-r", "--shortstat", workspace.base, final)
        return Changes(workspace.branch, head, parse_log(log), parse_shortstat(stat), preserved_ref, problem)

    @asynccontextmanager
    async def _scratch(self, workspace: Workspace, head: str, refs: AgentRefs) -> AsyncIterator[Scratch]:
        with TemporaryDirectory(prefix="scratch-", dir=workspace.path, ignore_cleanup_errors=True) as directory:
            path = Path(directory) / "scratch.git"
            scratch = Scratch(path, git=self._git, timeout_s=self._timeout_s, ignored=self._ignored())
            agent_repository = None if refs == AgentRefs() else workspace.repo
            await scratch.make(head, mirror_objects=workspace.objects, agent_repository=agent_repository)
            yield scratch

    async def _delete(self, path: Path) -> None:
        # Without its record it is no workspace any more: a removal cut short is finished by the next one.
        await asyncio.to_thread((path / RECORD).unlink, missing_ok=True)
        await delete_tree(path)

    async def _run(self, *arguments: str) -> None:
        await self._git.run(*arguments, timeout_s=self._timeout_s)

    def _mirror_of(self, workspace: Workspace) -> Mirror:
        return self._mirror(workspace.peer, workspace.repository)

    def _mirror(self, peer: str, repository: Repository) -> Mirror:
        return Mirror(self.places.mirrors_of(peer), repository, git=self._git, timeout_s=self._timeout_s)


def _head(workspace: Workspace, refs: AgentRefs) -> str:
    return refs.head or refs.branches.get(workspace.branch) or workspace.base


def _kept_refs(workspace: Workspace, refs: AgentRefs, head: str, final: str, *, superseded: bool) -> dict[str, str]:
    """Name what is to be found again in the mirror: side branches by their tips, earlier attempts by their end."""
    agent_id = workspace.agent_id
    tips = list(refs.branches.values())[:_MAX_BRANCHES]
    kept = {f"refs/hubspoke/heads/{agent_id}/{tip}": tip for tip in tips if tip != head}
    if superseded:
        kept[_earlier_ref(agent_id, final)] = final
    else:
        kept[_agent_ref(agent_id)] = head
    if final != head and not superseded:
        kept[_preserved_ref(agent_id)] = final
    return {ref: sha for ref, sha in kept.items() if sha != workspace.base}


def _agent_ref(agent_id: str) -> str:
    return f"refs/hubspoke/agents/{agent_id}"


def _preserved_ref(agent_id: str) -> str:
    return f"refs/hubspoke/preserved/{agent_id}"


def _earlier_ref(agent_id: str, sha: str) -> str:
    return f"refs/hubspoke/earlier/{agent_id}/{sha}"


def _base_ref(agent_id: str) -> str:
    return f"refs/hubspoke/bases/{agent_id}"


def _write_record(workspace: Workspace) -> None:
    """Write the record as the last step of preparing, whole or not at all."""
    record = {"repository": workspace.repository.url, "branch": workspace.asked_branch, "base": workspace.base}
    half_written = workspace.path / f"{RECORD}.new"
    with half_written.open("w") as file:
        json.dump(record, file)
        file.flush()
        os.fsync(file.fileno())
    half_written.replace(workspace.path / RECORD)
