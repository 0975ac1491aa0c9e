"""From an admitted COMMAND envelope to its REPLY: policy, one accept, one answer per command in order.

Takes `Admitted` and nothing else, so nothing reaches the queue that was not verified. A refusal of one command
touches no other. What the queue cannot answer, such as a log, is read after the envelope was accepted and only for
agents that the same tenant owns.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog

from common import logs, strict_json
from common.audit_file import Audit, AuditUnavailable
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
from common.connection import Admitted
from common.envelope import MAX_ITEMS_BYTES
from common.errors import CommandRefused, NotAllowed
from common.exchange import Exchange
from common.peers import Peer
from spoke.agent_record import AgentRecord, AgentRef, TamperedRecord
from spoke.answers import MAX_PATCHES, Answers, counts_bytes
from spoke.decisions import decisions, starts_something
from spoke.envelope_spans import EnvelopeSpans
from spoke.policy import Policy, check_command, check_spawn
from spoke.queue import Queue
from spoke.queue_terms import (
    Answer,
    FreezeStep,
    KillStep,
    KnownStep,
    Latch,
    NoStep,
    ResumedStep,
    ResumeStep,
    Sender,
    SpawnStep,
    StatusStep,
    Step,
    StepRefused,
    ThawStep,
)
from spoke.stored_command import StoredCommands

_log: Final = structlog.get_logger("command")
_PIECES_BYTES: Final = MAX_ITEMS_BYTES // 2
"""What pieces of logs and patches may take of an answer; the rest is for the other results in it."""

_DETAIL: Final = {
    "conflict": "this id was used for another spawn; use a fresh one",
    "stale": "the id is older than this spoke remembers; spawn again under a fresh one",
    "killed": "the agent was killed before its spawn came",
    "not_found": "there is no such agent",
    "quota_exceeded queued": "policy.queued: too many of your agents wait here; try again later",
    "quota_exceeded store_mib": "policy.store_mib: too much is kept for you; take events, let agents end, try later",
    "queue_full": "limits.queue: too many agents wait here; try again later",
    "frozen": "you froze this connection; thaw it first",
    "draining": "this spoke takes no new agents for now",
    "conflict resume": "this id was used for another resume; use a fresh one",
    "not_allowed running": "only an agent that has ended can be resumed; send this one a message, or kill it first",
    "not_allowed requeued": "this spoke's operator had its work done again by another agent; resume that one",
    "not_allowed forgotten": "what asked for this agent is no longer kept here; spawn it again",
    "not_allowed often": "this agent was resumed as often as one can be; spawn another",
}
"""What a peer reads beside a code, and the rule where the code has several, that the queue decided."""

_UNAUDITED: Final = "this spoke cannot write its audit file and takes no new agents until it can"


@dataclass(frozen=True, slots=True)
class Planned:
    """One command with its step in the queue, or with the error that kept it out."""

    command: Command
    step: Step
    refused: CommandRefused | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """What decides about a command beside the queue: spawn ids older than `oldest_ms` are `stale`.

    `offer` raises `CommandRefused` for a spawn that this spoke could not start as asked.
    """

    policy: Policy
    oldest_ms: int
    id_time_ms: Callable[[str], int]
    offer: Callable[[SpawnFields], None]


Asked = Mapping[str, Spawn | CommandRefused]
"""By agent, the verified spawn that asked for one which is to be resumed, or why it cannot be."""


def plan(commands: Sequence[Command], rules: Rules, asked: Asked) -> list[Planned]:
    """Decide for each command what the queue is to do; of the patches in one envelope only so many are taken."""
    planned = [_plan(index, command, rules, asked) for index, command in enumerate(commands)]
    patches = [number for number, each in enumerate(planned) if isinstance(each.command, Diff)]
    for number in patches[MAX_PATCHES:]:
        refused = CommandRefused("quota_exceeded", f"ask for at most {MAX_PATCHES} patches at once; ask again")
        planned[number] = Planned(planned[number].command, NoStep(), refused)
    return planned


def _plan(index: int, command: Command, rules: Rules, asked: Asked) -> Planned:
    try:
        check_command(rules.policy, command)
        if isinstance(command, Spawn | Resume) and rules.id_time_ms(command.id) < rules.oldest_ms:
            raise CommandRefused("stale", _DETAIL["stale"])
        if isinstance(command, Spawn):
            rules.offer(command)
        if isinstance(command, Resume):
            _check_resume(asked[command.agent_id], rules)
        return Planned(command, _step(index, command))
    except CommandRefused as refused:
        return Planned(command, _step_refused(command), refused)


def _check_resume(spawn: Spawn | CommandRefused, rules: Rules) -> None:
    """What was asked for then must be allowed now: the work begins anew."""
    if isinstance(spawn, CommandRefused):
        raise spawn
    check_spawn(rules.policy, spawn)
    rules.offer(spawn)


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


def error_result(command_id: str, code: str, detail: str, *, retryable: bool) -> dict[str, Any]:
    """Return the result of a refused command (PROTOCOL section 2.2)."""
    return {"id": command_id, "error": {"code": code, "detail": detail, "retryable": retryable}}


def refused_by_queue(refused: StepRefused) -> CommandRefused:
    """Return the error for a code that the queue decided."""
    return CommandRefused(refused.code, _DETAIL[f"{refused.code} {refused.rule}".rstrip()])


def fit(results: list[dict[str, Any]], limit: int = MAX_ITEMS_BYTES) -> list[bytes]:
    """Encode results for one REPLY; where they would not fit, the largest `result`s are left out, then receipts.

    The hub has those from the EVENT of the agent's end, or asks for fewer agents at once.
    """
    shown = list(results)
    encoded = [strict_json.encode(result) for result in shown]
    excess = sum(len(item) + 1 for item in encoded) - limit
    for member in ("result", "receipt"):
        for number in sorted(range(len(encoded)), key=lambda number: -len(encoded[number])):
            if excess <= 0:
                return encoded
            if "agent" in shown[number]:
                shown[number] = {**shown[number], "agent": {**shown[number]["agent"], member: None}}
                shorter = strict_json.encode(shown[number])
                excess -= len(encoded[number]) - len(shorter)
                encoded[number] = shorter
    return encoded


class Router:
    """Answers COMMAND envelopes of peers."""

    def __init__(
        self,
        queue: Queue,
        answers: Answers,
        commands: StoredCommands,
        exchange: Exchange,
        rules_of: Callable[[Peer], Rules],
        audit: Audit,
        spans: EnvelopeSpans,
    ) -> None:
        self._commands = commands
        self._spans = spans
        self._audit = audit
        self._queue = queue
        self._answers = answers
        self._exchange = exchange
        self._rules_of = rules_of

    async def answer(self, admitted: Admitted) -> bytes:
        """Accept an envelope and return its REPLY; raises `EnvelopeRejected`, `RateLimited`, `Unavailable`."""
        with self._spans.processing(admitted) as told:
            started = time.perf_counter()
            planned, results = await self._results(admitted)
            kept = self._decided(admitted, results)
            # While the disk takes it: nothing of this leaves before it has.
            with logs.together():
                _record(admitted, planned, results, time.perf_counter() - started)
            self._spans.answered(told, results)
            reply = self._exchange.reply(admitted.peer.instance, admitted.envelope.claims.jti, fit(results))
            await kept()
            return reply

    async def _results(self, admitted: Admitted) -> tuple[list[Planned], list[dict[str, Any]]]:
        envelope, peer = admitted.envelope, admitted.peer
        self._queue.store.check_signed(envelope.claims.iat)
        rules = self._rules_of(peer)
        sender = Sender(peer.tenant, peer.instance, rules.policy)
        planned = plan(envelope.commands, rules, await self._look_up(peer, envelope.commands))
        planned = self._announce(admitted, planned)
        answers = await self._queue.accept(sender, envelope.claims.jti, envelope.raw, [each.step for each in planned])
        pieces = sum(counts_bytes(each.command) for each in planned)
        room = _PIECES_BYTES // max(pieces, 1)
        return planned, [await self._result(each, found, room) for each, found in zip(planned, answers, strict=True)]

    async def _look_up(self, peer: Peer, commands: Sequence[Command]) -> Asked:
        """Return what once asked for the agents that are to be resumed; raises `Unavailable`."""
        ids = sorted({command.agent_id for command in commands if isinstance(command, Resume)})
        records = await self._queue.describe([AgentRef(peer.tenant, agent_id) for agent_id in ids])
        return {agent_id: await self._prove(record) for agent_id, record in zip(ids, records, strict=True)}

    async def _prove(self, record: AgentRecord | None) -> Spawn | CommandRefused:
        if record is None:
            return CommandRefused("not_found", _DETAIL["not_found"])
        try:
            self._answers.check_reachable(record)
            return self._commands.prove(record, await self._queue.stored_envelope(record))
        except TamperedRecord:
            return NotAllowed(_DETAIL["not_allowed forgotten"])
        except NotAllowed as refused:
            return refused

    def _announce(self, admitted: Admitted, planned: list[Planned]) -> list[Planned]:
        """Write down what is about to be started; where that cannot be written, nothing is (fault 29).

        What only looks or stops is done all the same, also beside spawns of the same envelope.
        """
        commands = admitted.envelope.commands
        if not starts_something(commands):
            return planned
        try:
            self._audit.intend("command.received", **_envelope_of(admitted), count=len(commands))
        except AuditUnavailable:
            if all(starts_something([command]) for command in commands):
                raise
            return [_withheld(each) if starts_something([each.command]) else each for each in planned]
        return planned

    def _decided(self, admitted: Admitted, results: Sequence[dict[str, Any]]) -> Callable[[], Awaitable[None]]:
        """Write down what was decided; returns what waits for the disk. What could not be withheld goes to the log."""
        commands = admitted.envelope.commands
        is_held = starts_something(commands) and self._audit.is_available
        write = self._audit.begin if is_held else self._audit.begin_note
        return write("command.decided", **_envelope_of(admitted), decisions=decisions(commands, results))

    async def _result(self, planned: Planned, found: Answer, room: int) -> dict[str, Any]:
        command = planned.command
        refused = refused_by_queue(found) if isinstance(found, StepRefused) else planned.refused
        if refused is not None and not isinstance(found, AgentRecord):
            return error_result(command.id, refused.code, refused.message, retryable=refused.retryable)
        if isinstance(found, Latch):
            return {"id": command.id, "connection": _latch(found)}
        if not isinstance(found, AgentRecord):
            raise TypeError(f"the queue gave no record for {command.command}")
        try:
            answer = await self._answers.answer(command, found, room)
            if answer is not None:
                return {"id": command.id, **answer}
            return {"id": command.id, "agent": found.to_status()}
        except TamperedRecord as error:
            # The others' answers must not be lost with it.
            _log.error("agent.tampered", agent_id=command.id, reason=error.message)
            return error_result(command.id, "invalid", "this agent's record cannot be read here", retryable=False)
        except CommandRefused as error:
            return error_result(command.id, error.code, error.message, retryable=error.retryable)


def _latch(latch: Latch) -> dict[str, Any]:
    return {"frozen": True, "killed": latch.killed} if latch.frozen else {"frozen": False}


def _envelope_of(admitted: Admitted) -> dict[str, object]:
    envelope = admitted.envelope
    return {"peer": admitted.peer.instance, "kid": envelope.kid, "jti": envelope.claims.jti}


def _withheld(planned: Planned) -> Planned:
    return Planned(planned.command, NoStep(), CommandRefused("draining", _UNAUDITED))


def _record(admitted: Admitted, planned: Sequence[Planned], results: Sequence[dict[str, Any]], took_s: float) -> None:
    """Write the canonical line of the envelope, and one for each command that changes something or was refused."""
    outcomes: Counter[str] = Counter()
    peer, jti = admitted.peer.instance, admitted.envelope.claims.jti
    log = _log.bind(peer=peer)
    for each, result in zip(planned, results, strict=True):
        outcome = result["error"]["code"] if "error" in result else "accepted"
        outcomes[f"{each.command.command} {outcome}"] += 1
        write = (
            log.info
            if "error" in result or isinstance(each.command, Spawn | Kill | Send | Resume | Freeze | Thaw)
            else log.debug
        )
        write(
            f"command.{'refused' if 'error' in result else 'accepted'}",
            command=each.command.command,
            command_id=each.command.id,
            agent_id=getattr(each.command, "agent_id", each.command.id),
            outcome=outcome,
            reason=result["error"]["detail"] if "error" in result else None,
        )
    duration_ms = round(took_s * 1000, 2)
    _log.info("envelope.accepted", peer=peer, jti=jti, outcomes=dict(outcomes), duration_ms=duration_ms)
