"""From a verified spawn and its workspace to what the supervisor starts: argv, environment, input, limits.

Everything comes from the verified command and the operator's profile; nothing of the task becomes an argument.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from common.agent_output import account_for
from common.agent_state import AGENT_TYPES, AgentType
from common.commands import Spawn, SpawnFields
from common.errors import Invalid
from common.trace_context import TraceContext
from spoke.profiles import AgentConfig, Assignment, Profile, Shelf, agent_environment, task_document
from spoke.profiles.shelf import fill_in
from spoke.prompts import Prompts
from spoke.runs import Run
from spoke.sandbox import sandboxes
from spoke.skills import SkillStore
from spoke.supervision.input_feed import message_line
from spoke.supervision.run_dir import LaunchSpec
from spoke.workspace import Workspace

_MIB: Final = 1024 * 1024
_SESSION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")
"""What may become an argument: the agent itself printed it."""
_SECRET_NAME: Final = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|CREDENTIALS?)\Z")


def message_of(text: str) -> bytes:
    """Return a message for a program that takes them as lines of JSON (`prompt_via = "stream-json"`)."""
    content = [{"type": "text", "text": text}]
    return json.dumps({"type": "user", "message": {"role": "user", "content": content}}).encode()


@dataclass(frozen=True, slots=True)
class Resumption:
    """What an attempt goes on from: the message it was resumed with, and the runs before it, the last one first."""

    text: str | None
    earlier: Sequence[Run]


@dataclass(frozen=True, slots=True)
class Start:
    """What an attempt is beside the spawn: its number, what it goes on from, the span that the agent continues."""

    attempt: int
    resumption: Resumption | None = None
    context: TraceContext | None = None


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
        self._configured = {name: configured.get(name, AgentConfig()) for name in AGENT_TYPES}
        shelf = Shelf(directory)
        self._profiles = {name: shelf.resolve(config, name) for name, config in self._configured.items()}
        self._prompts = Prompts(directory)
        for name, profile in self._profiles.items():
            if profile.prompt_via != "stdin-json":
                self._prompts.check(name)  # a template that cannot be used is found now and not at a start
        self._skills = SkillStore(directory)
        self._environment = environment
        self._log_mib = log_mib
        self._groups = groups
        self._sandboxes = sandboxes(self._configured, directory)

    def config(self, agent_type: AgentType) -> AgentConfig:
        """Return what is configured for this kind of agent."""
        return self._configured[agent_type]

    def profile(self, agent_type: AgentType) -> Profile:
        """Return the profile that runs this kind of agent."""
        return self._profiles[agent_type]

    def ignored_files(self) -> tuple[str, ...]:
        """Return the patterns, in git's form, of what programs leave in a tree that is nobody's work."""
        return tuple(sorted({pattern for profile in self._profiles.values() for pattern in profile.ignored_files}))

    def may_change(self, agent_type: AgentType) -> bool:
        """Say whether this kind of agent may change its workspace."""
        configured = self.config(agent_type).may_change
        return agent_type != "reviewer" if configured is None else configured

    def check(self, spawn: SpawnFields) -> None:
        """Raise `Invalid` for a spawn that asks for skills which its agent could not be given."""
        profile, skills = self.profile(spawn.agent_type), spawn.context.skills
        if profile.skills_dir is None or not skills:
            return  # they are data of the task, for the program to make something of
        if "HOME" in profile.env:
            raise Invalid("context.skills: agents of this type share a home here; leave skills out")
        self._skills.check(skills)

    def prepare(self, run: Run, workspace: Workspace, spawn: Spawn, start: Start) -> LaunchSpec:
        """Make the run's directories, write its task, and return what to start; reads earlier logs, so it blocks.

        An agent that was resumed goes on with its home, and with its session where its program told which that is.
        Raises OSError, `SandboxMissing`, LocalError `config`, and `Invalid` for a skill that has gone or a tree with a
        file that the program would obey.
        """
        _refuse_files(self.profile(spawn.agent_type), workspace.tree)
        if start.resumption is not None:
            run = run.at_home_in(start.resumption.earlier)
        assignment = _assignment(run, workspace, spawn, start)
        profile = self.profile(spawn.agent_type)
        session = _session(profile, start.resumption)
        task = task_document(assignment)
        prompt = None
        if profile.prompt_via != "stdin-json":
            prompt = self._prompts.render(spawn.agent_type, assignment, goes_on=session is not None)
        run.make(task, None if prompt is None else prompt.encode())
        if profile.skills_dir is not None and "HOME" not in profile.env:
            self._skills.install(spawn.context.skills, run.home, profile.skills_dir)
        sandbox = self._sandboxes.get(spawn.agent_type)
        limits = self.config(spawn.agent_type).limits
        argv = _argv(profile, spawn, run, workspace, session)
        if sandbox is not None:
            may_change = self.may_change(spawn.agent_type)
            argv = sandbox.confine(argv, workspace, run, self._environment.get("PATH"), may_change=may_change)
        return LaunchSpec(
            argv=argv,
            cwd=str(workspace.tree),
            env=agent_environment(profile, self._environment, assignment),
            timeout_s=spawn.timeout_s,
            silence_s=limits.silence_s,
            log_cap_bytes=(limits.log_mib or self._log_mib) * _MIB,
            stdin=_stdin(profile, spawn.id, task, prompt or ""),
            limits=limits.to_supervision(),
            cgroup=None if self._groups is None else str(self._groups / f"agent-{secrets.token_hex(8)}"),
            wrapped=sandbox is not None,
            stream=profile.takes_input,
            turn_end=profile.turn_end,
            masks=self._masks(profile),
        )

    def _masks(self, profile: Profile) -> tuple[str, ...]:
        """Return the values that must not get into a log: of the listed names, and of those that look like secrets."""
        names = {*profile.masks, *(name for name in profile.env if _SECRET_NAME.search(name))}
        return tuple(sorted(self._environment[name] for name in names if self._environment.get(name)))


def _refuse_files(profile: Profile, tree: Path) -> None:
    for name in profile.refused_files:
        if os.path.lexists(tree / name):
            raise Invalid(
                f'the repository holds {name}, which profile "{profile.name}" refuses: its program would obey it'
            )


def _session(profile: Profile, resumption: Resumption | None) -> str | None:
    """Return the session to go on with; None where a new one begins."""
    if resumption is None or not profile.resume or profile.output == "plain":
        return None
    for run in resumption.earlier:
        with suppress(OSError):  # a log that is gone, or that something else took the place of
            session = account_for(profile.output, run.output()).session
            if session is not None and _SESSION.match(session):
                return session
    return None


def _assignment(run: Run, workspace: Workspace, spawn: Spawn, start: Start) -> Assignment:
    return Assignment(
        agent_id=spawn.id,
        task_id=spawn.task_id,
        agent_type=spawn.agent_type,
        attempt=start.attempt,
        timeout_s=spawn.timeout_s,
        context=spawn.context,
        branch=workspace.branch,
        base=workspace.base,
        home=run.home,
        temporary=run.temporary,
        task_file=run.task_file,
        result_file=run.result_file,
        is_resumed=start.resumption is not None,
        message=None if start.resumption is None else start.resumption.text,
        traceparent=None if start.context is None else start.context.to_traceparent(),
    )


def _argv(profile: Profile, spawn: Spawn, run: Run, workspace: Workspace, session: str | None) -> tuple[str, ...]:
    if profile.takes_command:
        return (*profile.command, *profile.arguments.get(spawn.agent_type, []))  # the operator's, as it stands
    places = {
        "{session}": session or spawn.id,
        "{tree}": str(workspace.tree),
        "{home}": str(run.home),
        "{prompt_file}": str(run.prompt_file),
    }
    arguments = profile.arguments.get(spawn.agent_type, [])
    begin = profile.start if session is None else profile.resume
    return tuple(fill_in([*profile.command, *arguments, *begin], places))


def _stdin(profile: Profile, agent_id: str, task: bytes, prompt: str) -> bytes:
    match profile.prompt_via:
        case "stdin-json":
            return task
        case "stdin":
            return prompt.encode()
        case "stream-json":
            return message_line(agent_id, message_of(prompt))
        case "file":
            return b""
