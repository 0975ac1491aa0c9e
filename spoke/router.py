"""From an admitted COMMAND envelope to its REPLY: policy, one accept, one answer per command in order.

Takes `Admitted` and nothing else, so nothing reaches the queue that was not verified. A refusal of one command
touches no other. What the queue cannot answer, such as a log, is read after the envelope was accepted and only for
agents that the same tenant owns.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from itertools import groupby
from typing import Final

import structlog

from common import logs
from common.audit_file import Audit, AuditUnavailable
from common.commands import Command, Resume, Spawn
from common.connection import Admitted
from common.envelope import MAX_ITEMS_BYTES
from common.errors import CommandRefused, Invalid, NotAllowed
from common.exchange import Exchange
from common.peers import Peer
from spoke.agent_record import AgentRecord, AgentRef, TamperedRecord
from spoke.answers import Answers, counts_bytes, lies_beside
from spoke.command_result import (
    CommandResult,
    fit,
    of_agent,
    of_latch,
    of_members,
    refusal,
    refused_by_queue,
)
from spoke.decisions import agent_of, decisions, starts_something
from spoke.envelope_spans import EnvelopeSpans
from spoke.planning import Asked, Planned, Rules, plan
from spoke.queue import Queue
from spoke.queue_terms import Answer, Latch, NoStep, Sender, StepRefused
from spoke.stored_command import StoredCommands

_log: Final = structlog.get_logger("command")
_PIECES_BYTES: Final = MAX_ITEMS_BYTES // 2
"""What pieces of logs and patches may take of an answer; the rest is for the other results in it."""

_TOLD: Final = ("command", "command_id", "agent_id", "outcome", "reason")
_LOOKING: Final = frozenset({"status", "logs", "diff"})
_UNAUDITED: Final = "this spoke cannot write its audit file and takes no new agents until it can"


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
            results = await self._results(admitted)
            kept = self._decided(admitted, results)
            # While the disk takes it: nothing of this leaves before it has.
            with logs.together():
                _record(admitted, results, time.perf_counter() - started)
            self._spans.answered(told, results)
            fitting = fit([result.encoded for result in results])
            reply = self._exchange.reply(admitted.peer.instance, admitted.envelope.claims.jti, fitting)
            await kept()
            return reply

    async def _results(self, admitted: Admitted) -> list[CommandResult]:
        envelope, peer = admitted.envelope, admitted.peer
        self._queue.store.check_signed(envelope.claims.iat)
        rules = self._rules_of(peer)
        sender = Sender(peer.tenant, peer.instance, rules.policy)
        planned = plan(envelope.commands, rules, await self._look_up(peer, envelope.commands))
        planned = self._announce(admitted, planned)
        answers = await self._queue.accept(sender, envelope.claims.jti, envelope.raw, [each.step for each in planned])
        pieces = sum(counts_bytes(each.command) for each in planned)
        room = _PIECES_BYTES // max(pieces, 1)
        return [
            await self._ask(each.command, found, room)
            if isinstance(found, AgentRecord) and lies_beside(each.command)
            else _result(each, found)
            for each, found in zip(planned, answers, strict=True)
        ]

    async def _look_up(self, peer: Peer, commands: Sequence[Command]) -> Asked:
        """Return what once asked for the agents that are to be resumed; raises `Unavailable`."""
        ids = sorted({command.agent_id for command in commands if isinstance(command, Resume)})
        records = await self._queue.describe([AgentRef(peer.tenant, agent_id) for agent_id in ids])
        return {agent_id: await self._prove(record) for agent_id, record in zip(ids, records, strict=True)}

    async def _prove(self, record: AgentRecord | None) -> Spawn | CommandRefused:
        if record is None:
            return refused_by_queue(StepRefused("not_found"))
        try:
            self._answers.check_reachable(record)
            return self._commands.prove(record, await self._queue.stored_envelope(record))
        except TamperedRecord:
            return refused_by_queue(StepRefused("not_allowed", "forgotten"))
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

    def _decided(self, admitted: Admitted, results: Sequence[CommandResult]) -> Callable[[], Awaitable[None]]:
        """Write down what was decided; returns what waits for the disk. What could not be withheld goes to the log."""
        is_held = starts_something(admitted.envelope.commands) and self._audit.is_available
        write = self._audit.begin if is_held else self._audit.begin_note
        return write("command.decided", **_envelope_of(admitted), decisions=decisions(results))

    async def _ask(self, command: Command, record: AgentRecord, room: int) -> CommandResult:
        """Return the answer that lies beside the agent."""
        try:
            members = await self._answers.answer(command, record, room)
        except TamperedRecord as error:
            return _tampered(command, error)
        except CommandRefused as refused:
            return refusal(command, refused)
        return _status(command, record) if members is None else of_members(command, members)


def _result(planned: Planned, found: Answer) -> CommandResult:
    command = planned.command
    if isinstance(found, AgentRecord):
        return _status(command, found)
    refused = refused_by_queue(found) if isinstance(found, StepRefused) else planned.refused
    if refused is not None:
        return refusal(command, refused)
    if isinstance(found, Latch):
        return of_latch(command, found)
    raise TypeError(f"the queue gave no record for {command.command}")


def _status(command: Command, record: AgentRecord) -> CommandResult:
    try:
        return of_agent(command, record)
    except TamperedRecord as error:
        return _tampered(command, error)


def _tampered(command: Command, error: TamperedRecord) -> CommandResult:
    # The others' answers must not be lost with it.
    _log.error("agent.tampered", agent_id=command.id, reason=error.message)
    return refusal(command, Invalid("this agent's record cannot be read here"))


def _envelope_of(admitted: Admitted) -> dict[str, object]:
    envelope = admitted.envelope
    return {"peer": admitted.peer.instance, "kid": envelope.kid, "jti": envelope.claims.jti}


def _withheld(planned: Planned) -> Planned:
    return Planned(planned.command, NoStep(), CommandRefused("draining", _UNAUDITED))


def _record(admitted: Admitted, results: Sequence[CommandResult], took_s: float) -> None:
    """Write the canonical line of the envelope, and one for each command that changes something or was refused."""
    peer, jti = admitted.peer.instance, admitted.envelope.claims.jti
    log = _log.bind(peer=peer)
    for (is_refused, is_told), run in groupby(results, _telling):
        write = log.info if is_told else log.debug
        logs.many(write, "command.refused" if is_refused else "command.accepted", _TOLD, [_told(each) for each in run])
    counted = Counter((result.command.command, result.outcome) for result in results)
    outcomes = {f"{command} {outcome}": count for (command, outcome), count in counted.items()}
    log.info("envelope.accepted", jti=jti, outcomes=outcomes, duration_ms=round(took_s * 1000, 2))


def _telling(result: CommandResult) -> tuple[bool, bool]:
    is_refused = result.detail is not None
    return is_refused, is_refused or result.command.command not in _LOOKING


def _told(result: CommandResult) -> tuple[str | None, ...]:
    command = result.command
    return command.command, command.id, agent_of(command) or command.id, result.outcome, result.detail
