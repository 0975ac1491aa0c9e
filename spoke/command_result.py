"""What is answered to one command (PROTOCOL section 2.2), and the results of a REPLY that fits into one envelope."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from common import strict_json
from common.commands import Command
from common.envelope import MAX_ITEMS_BYTES
from common.errors import CommandRefused
from spoke.agent_record import AgentRecord
from spoke.planning import STALE
from spoke.queue_terms import Latch, StepRefused

_DETAIL: Final = {
    "conflict": "this id was used for another spawn; use a fresh one",
    "stale": STALE,
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


class CommandResult(NamedTuple):
    """The answer to one command, `encoded` as it goes into the REPLY.

    `outcome` is `accepted` or the code of the refusal, whose `detail` it has then.
    """

    command: Command
    encoded: bytes
    outcome: str = "accepted"
    detail: str | None = None


def refused_by_queue(refused: StepRefused) -> CommandRefused:
    """Return the error for a code that the queue decided."""
    return CommandRefused(refused.code, _DETAIL[f"{refused.code} {refused.rule}".rstrip()])


def refusal(command: Command, refused: CommandRefused) -> CommandResult:
    """Return the result of a refused command."""
    error = {"code": refused.code, "detail": refused.message, "retryable": refused.retryable}
    return CommandResult(command, strict_json.encode({"id": command.id, "error": error}), refused.code, refused.message)


def of_agent(command: Command, record: AgentRecord) -> CommandResult:
    """Return an agent's status as the result; raises `TamperedRecord`."""
    return CommandResult(command, b'{"id":"%s","agent":%s}' % (command.id.encode(), record.encode()))


def of_latch(command: Command, latch: Latch) -> CommandResult:
    """Return as the result whether the connection is frozen now."""
    connection = {"frozen": True, "killed": latch.killed} if latch.frozen else {"frozen": False}
    return of_members(command, {"connection": connection})


def of_members(command: Command, members: dict[str, Any]) -> CommandResult:
    """Return a result of other members beside `id`."""
    return CommandResult(command, strict_json.encode({"id": command.id, **members}))


def fit(encoded: Sequence[bytes], limit: int = MAX_ITEMS_BYTES) -> Sequence[bytes]:
    """Return results for one REPLY; where they would not fit, the largest `result`s are left out, then receipts.

    The hub has those from the EVENT of the agent's end, or asks for fewer agents at once.
    """
    excess = sum(map(len, encoded)) + len(encoded) - limit
    return encoded if excess <= 0 else _shortened(list(encoded), excess)


def _shortened(encoded: list[bytes], excess: int) -> list[bytes]:
    for member in ("result", "receipt"):
        for number in sorted(range(len(encoded)), key=lambda number: -len(encoded[number])):
            if excess <= 0:
                return encoded
            shorter = _without(encoded[number], member)
            excess -= len(encoded[number]) - len(shorter)
            encoded[number] = shorter
    return encoded


def _without(encoded: bytes, member: str) -> bytes:
    """Return a result without this member of its agent."""
    result = json.loads(encoded)
    if "agent" not in result:
        return encoded
    return strict_json.encode({**result, "agent": {**result["agent"], member: None}})
