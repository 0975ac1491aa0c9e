"""From a verified spawn and its workspace to what the supervisor starts: argv, environment, stdin, limits.

Everything comes from the verified command and the operator's profile; nothing of the task becomes an argument.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from common.agent_state import AgentType
from common.commands import Spawn
from spoke.profiles import AgentConfig, Assignment, Profile, agent_environment, resolve_profile, task_document
from spoke.runs import Run
from spoke.supervision.run_dir import LaunchSpec
from spoke.workspace import Workspace

_MIB: Final = 1024 * 1024


class Launcher:
    """Knows the profile of each agent type; a type without configuration runs `report`."""

    def __init__(
        self, configured: Mapping[AgentType, AgentConfig], environment: Mapping[str, str], log_mib: int
    ) -> None:
        self._configured = configured
        self._environment = environment
        self._log_cap_bytes = log_mib * _MIB

    def profile(self, agent_type: str) -> Profile:
        """Return the profile that runs this kind of agent."""
        configured = {str(name): config for name, config in self._configured.items()}
        return resolve_profile(configured.get(agent_type, AgentConfig()))

    def prepare(self, run: Run, workspace: Workspace, spawn: Spawn, attempt: int) -> LaunchSpec:
        """Make the run's directories, write its task, and return what to start; raises OSError."""
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
        return LaunchSpec(
            argv=tuple(profile.command),
            cwd=str(workspace.tree),
            env=agent_environment(profile, self._environment, assignment),
            timeout_s=spawn.timeout_s,
            log_cap_bytes=self._log_cap_bytes,
            stdin=task,
        )
