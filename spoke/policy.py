"""What a peer may ask of this spoke: deny by default, every refusal names its rule, every grant says what was granted.

Pure: takes a policy and a command, returns what is granted or raises `NotAllowed` (the rules) or `Invalid` (a branch or
repository that nobody could use). `commands`, `agent_types` and `repositories` open the door: missing or empty, they
allow nothing (attack row 39). `branches` and `skills` narrow what those let in: missing, they narrow nothing; empty,
they let no branch and no skill through. Numbers that count agents are decided where they are counted, in the scripts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Final, NamedTuple

import structlog
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from common.agent_state import AGENT_TYPES, AgentType
from common.branch import check_branch, check_branch_glob, match_branch
from common.commands import COMMAND_NAMES, Command, Spawn, SpawnFields
from common.errors import CommandRefused, Invalid, NotAllowed
from common.repository import Repository, check_glob, match_repository, parse_repository

UNLIMITED: Final = 1_000_000_000
_SKILL_GLOB: Final = r"^[a-z0-9*][a-z0-9*-]{0,63}$"
_log: Final = structlog.get_logger("policy")


def _known_command(name: str) -> str:
    if name not in COMMAND_NAMES:
        raise ValueError(f"is none of {', '.join(COMMAND_NAMES)}")
    return name


def readable(check: Callable[[str], str]) -> AfterValidator:
    """Return what makes a field of `check`, which raises `Invalid`."""

    def validate(glob: str) -> str:
        try:
            return check(glob)
        except Invalid as error:
            raise ValueError(error.message) from error

    return AfterValidator(validate)


class Policy(BaseModel):
    """The rules for one peer; `docs/operations.md` describes each. `agents` are at once, `store_mib` 0 is no bound."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)

    commands: list[Annotated[str, AfterValidator(_known_command)]] = []
    agent_types: list[AgentType] = []
    repositories: list[Annotated[str, readable(check_glob)]] = []
    branches: list[Annotated[str, readable(check_branch_glob)]] = ["**"]
    skills: list[Annotated[str, Field(pattern=_SKILL_GLOB)]] = ["*"]
    best_priority: Annotated[int, Field(ge=1, le=10)] = 1
    max_timeout_s: Annotated[int, Field(ge=1, le=86_400)] = 86_400
    max_attempts: Annotated[int, Field(ge=1, le=10)] = 10
    agents: Annotated[int, Field(ge=0)] = 4
    queued: Annotated[int, Field(ge=0)] = 1000
    rate_per_s: Annotated[int, Field(ge=1)] = 50
    commands_per_s: Annotated[int, Field(ge=1)] = 5000
    store_mib: Annotated[int, Field(ge=0)] = 256


LOCAL_POLICY: Final = Policy(
    commands=list(COMMAND_NAMES),
    agent_types=list(AGENT_TYPES),
    repositories=["**"],
    agents=UNLIMITED,
    queued=UNLIMITED,
    rate_per_s=UNLIMITED,
    store_mib=0,
)
"""What the operator of this machine may do with the local token: everything that makes sense."""


def read_policy(stored: Any, peer: str) -> Policy:
    """Return a policy as the trust store holds it; one that cannot be read any more allows nothing."""
    try:
        return Policy.model_validate(stored)
    except ValidationError:
        _log.error("policy.unreadable", peer=peer, reason="it allows nothing now; set it again")
        return Policy()


class Granted(NamedTuple):
    """What the policy left of what a spawn asked for."""

    priority: int
    timeout_s: int
    max_attempts: int


def grant(policy: Policy, spawn: SpawnFields) -> Granted:
    """Return what of priority, time and attempts is granted: what was asked, within the policy's ceilings."""
    return _grant(
        (spawn.priority, spawn.timeout_s, spawn.max_attempts),
        (policy.best_priority, policy.max_timeout_s, policy.max_attempts),
    )


@lru_cache(maxsize=256)  # spawns mostly ask for the same
def _grant(asked: tuple[int, int, int], ceiling: tuple[int, int, int]) -> Granted:
    return Granted(max(asked[0], ceiling[0]), min(asked[1], ceiling[1]), min(asked[2], ceiling[2]))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one rule says; `refusal` is None where it lets the spawn through."""

    rule: str
    detail: str
    refusal: CommandRefused | None = None


def _allow(rule: str, detail: str) -> Verdict:
    return Verdict(rule, detail)


def _deny(rule: str, why: str) -> Verdict:
    refusal = NotAllowed(f"{rule} {why}")
    return Verdict(rule, refusal.message, refusal)


def judge_command(policy: Policy, name: str) -> Verdict:
    """Say whether the policy allows this kind of command at all; who may kill may also freeze and thaw itself."""
    if name in {"freeze", "thaw"} and name not in policy.commands and "kill" in policy.commands:
        return _allow("policy.commands", f"lists kill, and with it {name}")
    if name not in policy.commands:
        return _deny("policy.commands", f"does not list {name}")
    return _allow("policy.commands", f"lists {name}")


def judge_spawn(policy: Policy, spawn: SpawnFields) -> Iterator[Verdict]:
    """Say what each rule about a spawn decides, in the order in which they are asked; the first refusal counts."""
    yield _judge_type(policy, spawn.agent_type)
    try:
        repository = parse_repository(spawn.context.repository)
        check_branch(spawn.context.branch)
    except CommandRefused as refused:
        yield Verdict("form", refused.message, refused)
        return
    yield _judge_repository(policy, repository)
    yield _judge_branch(policy, spawn.context.branch)
    yield _judge_skills(policy, spawn.context.skills)


def _judge_type(policy: Policy, agent_type: str) -> Verdict:
    if agent_type not in policy.agent_types:
        return _deny("policy.agent_types", f"does not list {agent_type}")
    return _allow("policy.agent_types", f"lists {agent_type}")


def _judge_repository(policy: Policy, repository: Repository) -> Verdict:
    glob = match_repository(policy.repositories, repository)
    if glob is None:
        return _deny("policy.repositories", "has no pattern for this repository")
    return _allow("policy.repositories", f"{glob} covers {repository.normalised}")


def _judge_branch(policy: Policy, branch: str) -> Verdict:
    glob = match_branch(policy.branches, branch)
    if glob is None:
        return _deny("policy.branches", "has no pattern for this branch")
    return _allow("policy.branches", f"{glob} covers {branch}")


def _judge_skills(policy: Policy, skills: list[str]) -> Verdict:
    for skill in skills:
        if not any(_skill_pattern(glob).match(skill) for glob in policy.skills):
            return _deny("policy.skills", f"has no pattern for {skill}")
    return _allow("policy.skills", f"covers {', '.join(skills)}" if skills else "none is asked for")


@lru_cache(maxsize=1024)
def _skill_pattern(glob: str) -> re.Pattern[str]:
    return re.compile(re.escape(glob).replace(r"\*", ".*") + r"\Z")


def _enforce(verdict: Verdict) -> None:
    if verdict.refusal is not None:
        raise verdict.refusal


def check_command(policy: Policy, command: Command) -> None:
    """Raise `NotAllowed` or `Invalid` unless the policy allows the command."""
    _enforce(judge_command(policy, command.command))
    if isinstance(command, Spawn):
        check_spawn(policy, command)


def check_spawn(policy: Policy, spawn: SpawnFields) -> None:
    """Raise `NotAllowed` or `Invalid` for a spawn that the policy does not allow."""
    for verdict in judge_spawn(policy, spawn):
        _enforce(verdict)
