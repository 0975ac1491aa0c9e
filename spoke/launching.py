"""From a verified spawn and its workspace to what the supervisor starts: argv, environment, stdin, limits.

Everything comes from the verified command and the operator's profile; nothing of the task becomes an argument.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from common.agent_state import AgentType
from common.commands import Spawn
from spoke.profiles import AgentConfig, Assignment, Profile, agent_environment, resolve_profile, task_document
from spoke.runs import Run
from spoke.sandbox import sandboxes
from spoke.supervision.run_dir import LaunchSpec
from spoke.workspace import Workspace

_MIB: Final = 1024 * 1024


class Launcher:
    """Knows the profile of each agent type; a type without configuration runs `report`."""

    def __init__(
        self,
        configured: Mapping[AgentType, AgentConfig],
        environment: Mapping[str, str],
        log_mib: int,
        *,
        directory: Path,
        groups: Path | None = None,
    ) -> None:
        """Take the configuration, the spoke's directory, and where control groups go; raises LocalError `config`."""
        self._configured: dict[str, AgentConfig] = {str(name): config for name, config in configured.items()}
        self._environment = environment
        self._log_mib = log_mib
        self._groups = groups
        self._sandboxes = sandboxes(self._configured, directory)

    def config(self, agent_type: str) -> AgentConfig:
        """Return what is configured for this kind of agent."""
        return self._configured.get(agent_type, AgentConfig())

    def profile(self, agent_type: str) -> Profile:
        """Return the profile that runs this kind of agent."""
        return resolve_profile(self.config(agent_type))

    def prepare(self, run: Run, workspace: Workspace, spawn: Spawn, attempt: int) -> LaunchSpec:
        """Make the run's directories, write its task, and return what to start; raises OSError, `SandboxMissing`."""
        assignment = Assignment(
            agent_id=spawn.id,
            task_id=spawn.task_id,
            agent_type=spawn.agent_type,
            attempt=attempt,
            timeout_s=spawn.timeout_s,
            context=spawn.context,
            branch=workspace.branch,
            base=workspace.base,
            home=run.home,
            temporary=run.temporary,
            task_file=run.task_file,
            result_file=run.result_file,
        )
        profile = self.profile(spawn.agent_type)
        task = task_document(assignment)
        run.make(task)
        sandbox = self._sandboxes.get(spawn.agent_type)
        limits = self.config(spawn.agent_type).limits
        argv = tuple(profile.command)
        return LaunchSpec(
            argv=argv if sandbox is None else sandbox.confine(argv, workspace, run, self._environment.get("PATH")),
            cwd=str(workspace.tree),
            env=agent_environment(profile, self._environment, assignment),
            timeout_s=spawn.timeout_s,
            silence_s=limits.silence_s,
            log_cap_bytes=(limits.log_mib or self._log_mib) * _MIB,
            stdin=task,
            limits=limits.to_supervision(),
            cgroup=None if self._groups is None else str(self._groups / f"agent-{secrets.token_hex(8)}"),
            wrapped=sandbox is not None,
        )
