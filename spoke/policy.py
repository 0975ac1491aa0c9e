"""What a peer may ask of this spoke: deny by default, and every refusal names its rule.

Pure: takes a policy and a command, returns what is allowed or raises `NotAllowed` (the rules) or `Invalid` (a branch or
repository that nobody could use). What an empty or missing rule does not allow is refused (attack row 39). Numbers that
count agents are decided where they are counted, in the accept script.
"""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from common.agent_state import AGENT_TYPES, AgentType
from common.branch import check_branch
from common.commands import COMMAND_NAMES, Command, Spawn, SpawnFields
from common.errors import Invalid, NotAllowed
from common.repository import Repository, check_glob, match_repository, parse_repository

UNLIMITED: Final = 1_000_000_000


def _known_command(name: str) -> str:
    if name not in COMMAND_NAMES:
        raise ValueError(f"is none of {', '.join(COMMAND_NAMES)}")
    return name


def _readable_glob(glob: str) -> str:
    try:
        return check_glob(glob)
    except Invalid as error:
        raise ValueError(error.message) from error


class Policy(BaseModel):
    """The rules for one peer: lists of what is allowed, `agents` at once, `queued` waiting, `rate_per_s` envelopes."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    commands: list[Annotated[str, AfterValidator(_known_command)]] = []
    agent_types: list[AgentType] = []
    repositories: list[Annotated[str, AfterValidator(_readable_glob)]] = []
    agents: Annotated[int, Field(ge=0)] = 4
    queued: Annotated[int, Field(ge=0)] = 1000
    rate_per_s: Annotated[int, Field(ge=1)] = 50


LOCAL_POLICY: Final = Policy(
    commands=list(COMMAND_NAMES),
    agent_types=list(AGENT_TYPES),
    repositories=["**"],
    agents=UNLIMITED,
    queued=UNLIMITED,
    rate_per_s=UNLIMITED,
)
"""What the operator of this machine may do with the local token: everything that makes sense."""


def check_command(policy: Policy, command: Command) -> None:
    """Raise `NotAllowed` or `Invalid` unless the policy allows the command."""
    if command.command not in policy.commands:
        raise NotAllowed(f"policy.commands does not list {command.command}")
    if isinstance(command, Spawn):
        check_spawn(policy, command)


def check_spawn(policy: Policy, spawn: SpawnFields) -> Repository:
    """Return the repository of a spawn that the policy allows; raises `NotAllowed` or `Invalid`."""
    if spawn.agent_type not in policy.agent_types:
        raise NotAllowed(f"policy.agent_types does not list {spawn.agent_type}")
    repository = parse_repository(spawn.context.repository)
    check_branch(spawn.context.branch)
    if match_repository(policy.repositories, repository) is None:
        raise NotAllowed("policy.repositories has no pattern for this repository")
    return repository
