"""What a spoke's answer means for the commands that were sent: decided here, carried out by `record.lua`.

Per command: `delivered` (the spoke has it), `refused` (it never will, with the reason) or `retry` (refused for now).
A reply that does not answer what was asked is `BadReply` as a whole: the commands stay pending (attack row 49).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

from common.agent_state import AgentStatus
from common.envelope import CommandError, Event, ReplyBody, Result
from common.errors import HubspokeError
from common.inbox import BadReply
from hub.backoff import delay_s

Outcome = Literal["delivered", "refused", "retry", "event", "answer"]
GUILTY: Final = frozenset({"malformed", "too_large"})
"""Rejections of a whole envelope that one of its commands may have caused: halve the batch to find it."""
MAX_DETAIL: Final = 300


# Each spawn makes one of each of these: a named tuple takes a third of the time of a frozen dataclass.
class Queued(NamedTuple):
    """A command in the outbox; `encoded` is its JSON as it goes out, `attempts` how often the spoke put it off.

    `trace` is the `traceparent` of what asked for it, "" where nothing did.
    """

    command_id: str
    kind: str
    agent_id: str
    encoded: bytes
    attempts: int = 0
    trace: str = ""


@dataclass(frozen=True, slots=True)
class Latched:
    """What a spoke answered to a freeze or a thaw: what is so now, and how many agents the freeze killed."""

    frozen: bool
    killed: int | None


class Settlement(NamedTuple):
    """What becomes of one command, or what an event or an answer said; `not_before_ms` counts for `retry` only.

    One of a freeze or a thaw is about no agent (``) and has a `latch` when the spoke took it.
    """

    agent_id: str
    outcome: Outcome
    command_id: str = ""
    error: dict[str, Any] | None = None
    not_before_ms: int = 0
    agent: AgentStatus | None = None
    latch: Latched | None = None


def shown_error(code: str, detail: str, *, retryable: bool) -> dict[str, Any]:
    """Return the `lastError` member of the API; a peer's detail is cut, it may be long."""
    return {"code": code, "detail": detail[:MAX_DETAIL], "retryable": retryable}


def error_of(error: HubspokeError) -> dict[str, Any]:
    """Return what is shown of an envelope that was not answered; all of them are tried again."""
    return shown_error(error.code, error.message, retryable=True)


def settle(sent: Sequence[Queued], reply: ReplyBody, now_ms: int, jitter: Callable[[], float]) -> list[Settlement]:
    """Return what becomes of each command by its result; raises `BadReply` unless every result answers its command."""
    return [_settle_one(command, result, now_ms, jitter) for command, result in zip(sent, reply.results, strict=True)]


def _settle_one(command: Queued, result: Result, now_ms: int, jitter: Callable[[], float]) -> Settlement:
    if result.id != command.command_id:
        raise BadReply("the reply's results are not in the order of the commands")
    if result.error is not None:
        return _settle_error(command, result.error, now_ms, jitter)
    if not command.agent_id:
        return Settlement("", "delivered", command.command_id, latch=_read_latch(result))
    if result.agent is None or result.agent.agent_id != command.agent_id:
        raise BadReply("a result of the reply tells of another agent, or of none")
    return Settlement(command.agent_id, "delivered", command.command_id, agent=result.agent)


def _read_latch(result: Result) -> Latched:
    told = result.connection
    frozen, killed = (told.get("frozen"), told.get("killed")) if isinstance(told, dict) else (None, None)
    if not isinstance(frozen, bool) or not (killed is None or (type(killed) is int and killed >= 0)):
        raise BadReply("a result of the reply does not say whether the connection is frozen")
    return Latched(frozen, killed)


def _settle_error(command: Queued, error: CommandError, now_ms: int, jitter: Callable[[], float]) -> Settlement:
    shown = shown_error(error.code, error.detail, retryable=error.retryable)
    if not error.retryable:
        return Settlement(command.agent_id, "refused", command.command_id, shown)
    not_before_ms = now_ms + int(delay_s(command.attempts + 1, jitter()) * 1000)
    return Settlement(command.agent_id, "retry", command.command_id, shown, not_before_ms)


def refuse(sent: Sequence[Queued], error: dict[str, Any]) -> list[Settlement]:
    """Return that none of the commands will ever be delivered."""
    return [Settlement(command.agent_id, "refused", command.command_id, error) for command in sent]


def of_events(events: Sequence[Event]) -> list[Settlement]:
    """Return what the events of an EVENT envelope say."""
    return [Settlement(event.agent.agent_id, "event", agent=event.agent) for event in events]
