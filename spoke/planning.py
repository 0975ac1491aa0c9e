"""What the queue is to do about each command of an envelope, or why one is kept out of it.

Pure. A refusal of one command touches no other. Commands of one envelope ask for much the same, so what the rules say
of a kind of work is determined once for all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Generic, NamedTuple, TypeVar

from common.commands import (
    DEFAULT_GRACE_S,
    Command,
    Diff,
    Freeze,
    Kill,
    Logs,
    Resume,
    Send,
    Spawn,
    SpawnFields,
    StatusOf,
    Thaw,
)
from common.errors import CommandRefused
from spoke.answers import MAX_PATCHES
from spoke.policy import Policy, check_command, check_spawn
from spoke.queue_terms import (
    FreezeStep,
    KillStep,
    KnownStep,
    NoStep,
    ResumedStep,
    ResumeStep,
    SpawnStep,
    StatusStep,
    Step,
    ThawStep,
)

_T = TypeVar("_T")
STALE: Final = "the id is older than this spoke remembers; spawn again under a fresh one"
"""What is said to one who spawns under an id that is too old, here and by the queue."""


class Planned(NamedTuple):
    """One command with its step in the queue, or with the error that kept it out."""

    command: Command
    step: Step
    refused: CommandRefused | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """What decides about a command beside the queue: spawn ids older than `oldest_ms` are `stale`.

    `offer` raises `CommandRefused` for a spawn that this spoke could not start as asked; it looks at its kind alone.
    """

    policy: Policy
    oldest_ms: int
    id_time_ms: Callable[[str], int]
    offer: Callable[[SpawnFields], None]


Asked = Mapping[str, Spawn | CommandRefused]
"""By agent, the verified spawn that asked for one which is to be resumed, or why it cannot be."""


def plan(commands: Sequence[Command], rules: Rules, asked: Asked) -> list[Planned]:
    """Decide for each command what the queue is to do; of the patches in one envelope only so many are taken."""
    judge = _Judge(rules, asked)
    planned = [judge.plan(index, command) for index, command in enumerate(commands)]
    patches = [number for number, each in enumerate(planned) if isinstance(each.command, Diff)]
    for number in patches[MAX_PATCHES:]:
        refused = CommandRefused("quota_exceeded", f"ask for at most {MAX_PATCHES} patches at once; ask again")
        planned[number] = Planned(planned[number].command, NoStep(), refused)
    return planned


class _Judge:
    """Decides about the commands of one envelope."""

    def __init__(self, rules: Rules, asked: Asked) -> None:
        self._rules = rules
        self._asked = asked
        self._allow: _Remembered[Command] = _Remembered(partial(check_command, rules.policy))
        self._offer: _Remembered[SpawnFields] = _Remembered(rules.offer)

    def plan(self, index: int, command: Command) -> Planned:
        """Decide about the command at `index`."""
        try:
            self._check(command)
            return Planned(command, _step(index, command))
        except CommandRefused as refused:
            return Planned(command, _step_refused(command), refused)

    def _check(self, command: Command) -> None:
        if isinstance(command, Spawn):
            kind = _kind_of(command)
            self._allow(kind, command)
            self._check_age(command.id)
            self._offer(kind, command)
            return
        self._allow((command.command,), command)
        if isinstance(command, Resume):
            self._check_age(command.id)
            self._check_resume(self._asked[command.agent_id])

    def _check_age(self, command_id: str) -> None:
        if self._rules.id_time_ms(command_id) < self._rules.oldest_ms:
            raise CommandRefused("stale", STALE)

    def _check_resume(self, spawn: Spawn | CommandRefused) -> None:
        """What was asked for then must be allowed now: the work begins anew."""
        if isinstance(spawn, CommandRefused):
            raise spawn
        check_spawn(self._rules.policy, spawn)
        self._rules.offer(spawn)


_Kind = tuple[str, ...]


def _kind_of(spawn: Spawn) -> _Kind:
    """Return all that the rules look at."""
    context = spawn.context
    return (spawn.command, spawn.agent_type, context.repository, context.branch, *context.skills)


class _Remembered(Generic[_T]):
    """A check that is made once of each kind of what it is to check, and said again of the others."""

    def __init__(self, check: Callable[[_T], None]) -> None:
        self._check = check
        self._said: dict[_Kind, CommandRefused | None] = {}

    def __call__(self, kind: _Kind, command: _T) -> None:
        if kind not in self._said:
            self._said[kind] = self._refusal(command)
        refused = self._said[kind]
        if refused is not None:
            raise refused.with_traceback(None)

    def _refusal(self, command: _T) -> CommandRefused | None:
        try:
            self._check(command)
        except CommandRefused as refused:
            return refused
        return None


def _step_refused(command: Command) -> Step:
    """What was accepted once stays accepted, whatever the rules are by now: the first reply may have been lost."""
    match command:
        case Spawn():
            return KnownStep(command)
        case Resume():
            return ResumedStep(command)
        case _:
            return NoStep()


def _step(index: int, command: Command) -> Step:
    match command:
        case Spawn():
            return SpawnStep(command, index)
        case Resume():
            return ResumeStep(command, index)
        case StatusOf() | Logs() | Diff() | Send():
            return StatusStep(command.agent_id)
        case Kill():
            return KillStep(command.agent_id, command.grace_s, "killed_by_peer", command.reason)
        case Freeze():
            kill = KillStep("", DEFAULT_GRACE_S, "killed_by_peer", command.reason)
            return FreezeStep(command.id, kill if command.kill_agents else None)
        case Thaw():
            return ThawStep(command.id)
