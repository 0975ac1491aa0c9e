"""The read model of an agent: what the hub shows of it, read from the fields that the scripts keep.

Decides nothing: `status` is what the spoke said last, and `pending` before it said anything; `shown` is the same, and
`refused` or `expired` where no spoke will ever say anything.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from common.agent_state import TERMINAL
from common.ids import rfc3339

FIELDS: Final = (
    "spoke",
    "tenant",
    "task",
    "type",
    "status",
    "shown",
    "created",
    "delivery",
    "attempts",
    "error",
    "kill_id",
    "kill_state",
    "kill_error",
    "agent",
    "command",
)
ENDED: Final = TERMINAL | {"refused", "expired"}
"""What is shown of an agent about which nothing more is to be expected."""

_NOTHING_YET: Final[dict[str, Any]] = {
    "seq": 0,
    "attempt": 0,
    "queuedAt": None,
    "startedAt": None,
    "finishedAt": None,
    "reason": None,
    "exitCode": None,
    "signal": None,
    "result": None,
    "granted": None,
    "queue": None,
    "receipt": None,
}


@dataclass(frozen=True, slots=True)
class AgentRecord:
    """One agent as the hub knows it; `agent` is the spoke's last AgentStatus, `command` the spawn as it was asked."""

    agent_id: str
    spoke: str
    tenant: str
    task_id: str
    agent_type: str
    status: str
    shown: str
    created_ms: int
    delivery: dict[str, Any]
    kill: dict[str, Any] | None
    agent: dict[str, Any] | None
    command: dict[str, Any] | None

    @property
    def created_at(self) -> str:
        """When the hub took it, or first heard of it (RFC 3339)."""
        return rfc3339(self.created_ms)

    def to_view(self) -> dict[str, Any]:
        """Return the JSON object of the API."""
        known = self.agent or {
            "agentId": self.agent_id,
            "taskId": self.task_id,
            "agentType": self.agent_type,
            "status": self.status,
            **_NOTHING_YET,
        }
        return {
            **known,
            "spoke": self.spoke,
            "createdAt": self.created_at,
            "delivery": self.delivery,
            "kill": self.kill,
            # A member with its default is not stored.
            "context": self.command and {"skills": [], **self.command["context"]},
        }


def _object(raw: bytes | None) -> dict[str, Any] | None:
    return json.loads(raw) if raw else None


def _text(raw: bytes | None) -> str:
    return (raw or b"").decode()


def parse_record(agent_id: str, values: Sequence[bytes | None]) -> AgentRecord | None:
    """Read the values of `FIELDS`; None when there is no such agent."""
    fields = dict(zip(FIELDS, values, strict=True))
    if fields["spoke"] is None:
        return None
    kill = {
        "commandId": _text(fields["kill_id"]),
        "state": _text(fields["kill_state"]),
        "lastError": _object(fields["kill_error"]),
    }
    return AgentRecord(
        agent_id=agent_id,
        spoke=_text(fields["spoke"]),
        tenant=_text(fields["tenant"]),
        task_id=_text(fields["task"]),
        agent_type=_text(fields["type"]),
        status=_text(fields["status"]),
        shown=_text(fields["shown"]),
        created_ms=int(fields["created"] or 0),
        delivery={
            "state": _text(fields["delivery"]),
            "attempts": int(fields["attempts"] or 0),
            "lastError": _object(fields["error"]),
        },
        kill=kill if fields["kill_id"] else None,
        agent=_object(fields["agent"]),
        command=_object(fields["command"]),
    )
