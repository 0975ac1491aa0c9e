"""A trial of a profile: one agent on a scratch repository, through the real workspaces and the real supervision.

Touches nothing of the spoke: no queue, no node, a directory of its own that is gone afterwards. Decides nothing that a
real agent's end would not decide; what it reports is what a hub would be told.
"""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from common.agent_output import Rendering
from common.agent_state import AgentType
from common.clock import SystemClock
from common.commands import Spawn
from common.repository import parse_repository
from spoke.agent_record import AgentRef
from spoke.conclusion import conclude
from spoke.git import Git
from spoke.launching import Launcher, Start
from spoke.profiles import AgentConfig
from spoke.runs import Run, Runs
from spoke.supervision.run_dir import Ending, LaunchSpec
from spoke.supervision.supervisor import LaunchFailed, NeverStarted, Supervisor
from spoke.workspace import Workspaces

_TENANT: Final = "trial"
_BRANCH: Final = "main"
_GIT_TIMEOUT_S: Final = 30
_LOG_MIB: Final = 1
_TAIL_BYTES: Final = 2048
_GRACE_S: Final = 2.0
_FILES: Final = {
    "README.md": "# A scratch repository\n\nMade by `spoke profile test`; TODO: nothing.\n",
    "src/hello.py": 'print("hello")\n',
}


@dataclass(frozen=True, slots=True)
class Trial:
    """What is tried: `config` is what `directory`'s spoke.toml says of `agent_type`, or a profile as it comes."""

    directory: Path

    agent_type: AgentType
    config: AgentConfig
    work_items: Sequence[str]
    timeout_s: int
    environment: Mapping[str, str]

    async def run(self) -> dict[str, Any]:
        """Run the agent to its end and return facts about it; raises `LaunchFailed`, `WorkspaceFailed`, `GitFailed`.

        Whoever interrupts it, or closes the terminal, ends the agent as well.
        """
        for signum in (signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(signum, os.kill, os.getpid(), signal.SIGINT)
        with tempfile.TemporaryDirectory(prefix="hubspoke-trial-", ignore_cleanup_errors=True) as scratch:
            git = Git(self.environment)
            origin = Path(scratch) / "origin"
            await _make_repository(git, origin)
            async with Supervisor() as supervisor:
                return await self._run(Path(scratch) / "spoke", origin, git, supervisor)

    def _spawn(self, origin: Path) -> Spawn:
        context = {"repository": f"file://{origin}", "branch": _BRANCH, "workItems": list(self.work_items)}
        members = {"command": "spawn", "taskId": "trial", "agentType": self.agent_type, "context": context}
        return Spawn.model_validate({"id": SystemClock().new_id(), "timeoutS": self.timeout_s, **members})

    async def _run(self, directory: Path, origin: Path, git: Git, supervisor: Supervisor) -> dict[str, Any]:
        spawn = self._spawn(origin)
        ref = AgentRef(_TENANT, spawn.id)
        launcher = Launcher({self.agent_type: self.config}, self.environment, _LOG_MIB, directory=self.directory)
        runs = Runs(directory / "runs")
        workspaces = Workspaces(directory / "workspaces", git=git, ignored=launcher.ignored_files)
        repository = parse_repository(spawn.context.repository)
        workspace = await workspaces.prepare(ref.tenant, ref.agent_id, repository, _BRANCH)
        run = runs.run(ref, 1)
        ending = await _run_to_its_end(supervisor, run.directory, launcher.prepare(run, workspace, spawn, Start(1)))
        changes = await workspaces.collect(workspace)
        outcome = await asyncio.to_thread(conclude, run, ending, launcher, self.agent_type, changes)
        verdict, result = outcome.verdict, outcome.result
        log = runs.read_log(ref, 1, max(ending.log_bytes - _TAIL_BYTES, 0), _TAIL_BYTES).to_json(ended=True)
        return {
            "status": verdict.status,
            "reason": verdict.reason,
            "exitCode": ending.exit_code,
            "signal": ending.signal,
            "detail": ending.detail or "; ".join(outcome.problems) or None,
            "startedAt": ending.started_at,
            "finishedAt": ending.finished_at,
            "summary": result["summary"],
            "data": result["data"],
            "usage": result["usage"],
            "commits": len(result["commits"]),
            "filesChanged": result["diffStat"]["files"],
            "logBytes": ending.log_bytes,
            "logTail": log["data"],
            "saw": _rendered(run),
        }


async def _run_to_its_end(supervisor: Supervisor, run_dir: Path, spec: LaunchSpec) -> Ending:
    """Return how it ended; when this is cancelled or the start fails, nothing of it is left either."""
    starting = asyncio.ensure_future(supervisor.start(run_dir, spec))
    try:
        await asyncio.shield(starting)
        return await supervisor.wait(run_dir)
    except (asyncio.CancelledError, LaunchFailed):
        await asyncio.wait([starting])  # half a start would be an agent that nobody ends
        await supervisor.kill(run_dir, _GRACE_S, "interrupted")
        with suppress(NeverStarted):
            await supervisor.wait(run_dir)
        raise


def _rendered(run: Run) -> str:
    """Return the end of what people would see of the output."""
    rendering = Rendering()
    return ("".join(map(rendering.feed, run.output())) + rendering.flush())[-_TAIL_BYTES:]


async def _make_repository(git: Git, path: Path) -> None:
    await asyncio.to_thread(_write_files, path)
    place = ("-C", os.fspath(path))
    for arguments in (("init", "--quiet", f"--initial-branch={_BRANCH}"), ("add", "--all"), ("commit", "-qm", "first")):
        await git.run(*place, *arguments, timeout_s=_GIT_TIMEOUT_S)


def _write_files(path: Path) -> None:
    for name, text in _FILES.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text)
