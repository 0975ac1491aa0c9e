"""What an agent has changed so far, as a git patch from its base to its present tree, read in pieces.

A patch is taken when it is read from its beginning and kept beside the run, so that the pieces of one reading fit
together while the agent goes on. The last one is taken when the agent has ended, before its workspace goes.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from typing import Final

import structlog

from common.errors import CommandRefused
from spoke.agent_record import AgentRecord
from spoke.mirror import WorkspaceFailed
from spoke.runs import LogSlice, Run, Runs
from spoke.workspace import Changes, Workspace, Workspaces

_log: Final = structlog.get_logger("patches")

_AT_ONCE: Final = 2
"""Patches that are being taken at the same time: each is a git of its own."""


class Patches:
    """The patches of all agents of a spoke."""

    def __init__(self, runs: Runs, workspaces: Workspaces) -> None:
        self._runs = runs
        self._workspaces = workspaces
        self._at_once = asyncio.Semaphore(_AT_ONCE)

    async def read(self, record: AgentRecord, offset: int, limit: int) -> LogSlice:
        """Return a piece of the patch; empty where nothing was changed. Raises `CommandRefused` where git cannot."""
        run = self._runs.run(record.ref, record.attempt)
        if not offset and not (record.terminal and run.patch_file.exists()):
            workspace = await asyncio.to_thread(self._workspaces.find, record.ref.tenant, record.ref.agent_id)
            if workspace is not None:
                await self._take(workspace, run)
            elif has_changed(record) and not run.patch_file.exists():
                raise CommandRefused(
                    "not_found", "this agent's patch is gone; its work is under the refs of its result"
                )
        return await asyncio.to_thread(_read, run, offset, limit)

    async def settle(self, workspace: Workspace, run: Run, changes: Changes) -> None:
        """Take the last patch of an agent that has ended; where there is none the log says why."""
        if not changes:
            await asyncio.to_thread(run.patch_file.unlink, missing_ok=True)
            return
        try:
            await self._take(workspace, run)
        except CommandRefused as refused:
            _log.warning("patch.not_kept", agent_id=workspace.agent_id, reason=refused.message)

    async def _take(self, workspace: Workspace, run: Run) -> None:
        try:
            async with self._at_once:
                patch = await self._workspaces.patch(workspace)
        except WorkspaceFailed as error:
            raise CommandRefused("not_found", f"there is no patch of this agent: {error.message}") from error
        await asyncio.to_thread(_write, run, patch)


def has_changed(record: AgentRecord) -> bool:
    """Whether its result says that it changed files."""
    result = json.loads(record.fields.get("result") or "{}")
    return bool(result.get("diffStat", {}).get("files"))


def _write(run: Run, patch: bytes) -> None:
    run.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    half_written = run.patch_file.with_suffix(f".{secrets.token_hex(4)}")
    half_written.write_bytes(patch)
    half_written.replace(run.patch_file)


def _read(run: Run, offset: int, limit: int) -> LogSlice:
    try:
        descriptor = os.open(run.patch_file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return LogSlice(offset, b"", end=True)
    with os.fdopen(descriptor, "rb") as file:
        data = os.pread(descriptor, limit, offset)
        return LogSlice(offset, data, end=offset + len(data) >= os.fstat(file.fileno()).st_size)
