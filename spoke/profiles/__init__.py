"""Profiles: how an agent program is started and its end is read, and what of the outside it gets to see.

Decides the argument vector, which is the operator's: nothing of a task is ever an argument (attack row 54). Decides the
environment, which is a list: nothing of the spoke's own gets through unless it is named (attack row 53). A profile is
one TOML file beside this module; unknown profiles, a missing command and one that a profile does not take are refused.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from common.commands import Context
from spoke.confinement import AgentLimits, SandboxConfig

__all__ = [
    "AgentConfig",
    "Assignment",
    "Profile",
    "agent_environment",
    "built_in",
    "profile_names",
    "resolve_profile",
    "task_document",
]

_DEFAULT_PATH: Final = "/usr/local/bin:/usr/bin:/bin"
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_OURS: Final = "HUBSPOKE_"


def _variable(name: str) -> str:
    if not _VARIABLE.match(name) or name.startswith(_OURS):
        raise ValueError(f"{name!a} is no name of a variable that could be passed on")
    return name


def _argument(text: str) -> str:
    if "\0" in text:
        raise ValueError("an argument cannot hold NUL")
    return text


Variable = Annotated[str, AfterValidator(_variable)]
Argument = Annotated[str, AfterValidator(_argument)]


class Profile(BaseModel):
    """How one program is run.

    `command` is its argv, `env` the names of variables passed on from the spoke, `exit_codes` the reason for exit codes
    that tell more than `exit_nonzero`.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    name: str
    command: list[Argument]
    takes_command: bool
    prompt_via: Literal["stdin-json"]
    env: list[Variable]
    success: Literal["exit-zero"]
    exit_codes: dict[str, Literal["agent_error", "exit_nonzero"]]

    def reason_for(self, exit_code: int) -> str | None:
        """Return the reason that an agent's exit code stands for, None for success (PROTOCOL section 2.2)."""
        return None if exit_code == 0 else self.exit_codes.get(str(exit_code), "exit_nonzero")


class AgentConfig(SandboxConfig):
    """`[agents.TYPE]` of spoke.toml: which profile, with which command and further variables, and how confined."""

    profile: str = "report"
    command: Annotated[list[Argument], Field(min_length=1)] | None = None
    env: list[Variable] = Field(default_factory=list)
    limits: AgentLimits = AgentLimits()

    @model_validator(mode="after")
    def _fits_the_profile(self) -> AgentConfig:
        if self.profile not in profile_names():
            raise ValueError(f"unknown profile; known are {', '.join(profile_names())}")
        takes_command = built_in(self.profile).takes_command
        if takes_command and self.command is None:
            raise ValueError(
                f'profile "{self.profile}" needs a command, such as command = ["python3", "/srv/agent.py"]'
            )
        if self.command is not None and not takes_command:
            raise ValueError(f'profile "{self.profile}" takes no command')
        return self


@cache
def profile_names() -> tuple[str, ...]:
    """Return the names of the profiles that come with the spoke."""
    names = (entry.name for entry in resources.files(__name__).iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml")))


@cache
def built_in(name: str) -> Profile:
    """Return a profile as it comes with the spoke."""
    text = (resources.files(__name__) / f"{name}.toml").read_text("utf-8")
    profile = Profile.model_validate(tomllib.loads(text))
    places = {"{python}": sys.executable, "{agents}": str(Path(__file__).parent.parent / "agents")}
    return profile.model_copy(update={"command": [_filled_in(argument, places) for argument in profile.command]})


def _filled_in(argument: str, places: Mapping[str, str]) -> str:
    for name, place in places.items():
        argument = argument.replace(name, place)
    return argument


def resolve_profile(config: AgentConfig) -> Profile:
    """Return the profile of an agent type with what its configuration puts in."""
    profile = built_in(config.profile)
    command = config.command if config.command is not None else profile.command
    return profile.model_copy(update={"command": command, "env": [*profile.env, *config.env]})


@dataclass(frozen=True, slots=True)
class Assignment:
    """One attempt of one agent: what it is to do and where its things lie.

    `branch` is the branch checked out for it at commit `base`; the branch that was asked for is in `context`.
    """

    agent_id: str
    task_id: str
    agent_type: str
    attempt: int
    timeout_s: int
    context: Context
    branch: str
    base: str
    home: Path
    temporary: Path
    task_file: Path
    result_file: Path


def agent_environment(profile: Profile, spoke_environment: Mapping[str, str], assignment: Assignment) -> dict[str, str]:
    """Return the complete environment of an agent: our own variables, and of the spoke's those that are listed.

    A listed name beats one of our defaults, so that an operator can pass on `HOME` (attack row 53).
    """
    identity = {"NAME": f"hubspoke {assignment.agent_type}", "EMAIL": f"{assignment.agent_id}@hubspoke.invalid"}
    defaults = {
        "PATH": spoke_environment.get("PATH", _DEFAULT_PATH),
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "HOME": str(assignment.home),
        "TMPDIR": str(assignment.temporary),
        "GIT_TERMINAL_PROMPT": "0",
        **{f"GIT_{role}_{part}": value for role in ("AUTHOR", "COMMITTER") for part, value in identity.items()},
    }
    listed = {name: spoke_environment[name] for name in profile.env if name in spoke_environment}
    ours = {
        f"{_OURS}AGENT_ID": assignment.agent_id,
        f"{_OURS}AGENT_TYPE": assignment.agent_type,
        f"{_OURS}TASK_ID": assignment.task_id,
        f"{_OURS}BRANCH": assignment.branch,
        f"{_OURS}TASK_FILE": str(assignment.task_file),
        f"{_OURS}RESULT_FILE": str(assignment.result_file),
    }
    return {**defaults, **listed, **ours}


def task_document(assignment: Assignment) -> bytes:
    """Return the task as JSON, for stdin and `$HUBSPOKE_TASK_FILE`: the only way a task's text reaches an agent."""
    document = {
        "agentId": assignment.agent_id,
        "taskId": assignment.task_id,
        "agentType": assignment.agent_type,
        "attempt": assignment.attempt,
        "timeoutS": assignment.timeout_s,
        "context": assignment.context.model_dump(by_alias=True),
        "workspace": {"branch": assignment.branch, "base": assignment.base},
        "resultFile": str(assignment.result_file),
    }
    return json.dumps(document, ensure_ascii=False, indent=1).encode("utf-8") + b"\n"
