"""An agent as the spoke's Valkey keeps it, and the AgentStatus that its peer is shown.

A record is flat: the field names of `scripts/_agent.lua` and text. Decides nothing; a record that cannot be read is
`tampered`, because only our scripts write records.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from pydantic_core import to_json

from common import strict_json
from common.agent_state import TERMINAL
from common.errors import LocalError
from common.ids import rfc3339

Fields = Mapping[str, str]


class TamperedRecord(LocalError):
    """What the queue holds is not what this spoke wrote: nothing is started from it (attack row 61)."""

    code = "tampered"


@dataclass(frozen=True, slots=True)
class AgentRef:
    """The name of an agent on this spoke: ids are the peers' own, so they count only together with the tenant."""

    tenant: str
    agent_id: str

    def __str__(self) -> str:
        return f"{self.tenant} {self.agent_id}"

    @classmethod
    def parse(cls, text: str) -> AgentRef:
        """Read `TENANT AGENT`, the form of members and messages in Valkey."""
        tenant, _, agent_id = text.partition(" ")
        return cls(tenant, agent_id)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a queued agent stands among its tenant's, from 1, and what it waits for."""

    position: int
    waiting_for: str

    def to_json(self) -> dict[str, str | int]:
        """Return it as AgentStatus shows it."""
        return {"position": self.position, "waitingFor": self.waiting_for}

    def encode(self) -> bytes:
        """Return the same as it goes over the wire."""
        return b'{"position":%d,"waitingFor":%s}' % (self.position, to_json(self.waiting_for))


def text_of(value: bytes) -> str:
    """Return a value as it lies in Valkey as text, whatever a stranger may have written."""
    return value.decode("utf-8", "replace")


def decode_fields(flat: Sequence[bytes]) -> dict[str, str]:
    """Read the flat list of names and values that HGETALL gives in a script."""
    texts = [text_of(item) for item in flat]
    return dict(zip(texts[::2], texts[1::2], strict=True))


def _time(fields: Fields, name: str) -> str | None:
    return rfc3339(int(fields[name])) if name in fields else None


def _integer(fields: Fields, name: str) -> int | None:
    return int(fields[name]) if name in fields else None


def _json(fields: Fields, name: str) -> dict[str, Any] | None:
    value = json.loads(fields[name]) if name in fields else None
    if not isinstance(value, dict | None):
        raise ValueError(f"{name} is no object")
    return value


_GRANTED: Final = (("priority", "priority"), ("timeoutS", "timeout"), ("maxAttempts", "max_attempts"))


_UNREADABLE: Final = (KeyError, ValueError, OverflowError, OSError)  # the last for a time that no clock has


def _tampered() -> TamperedRecord:
    return TamperedRecord("a record in the queue cannot be read; see who else writes to this Valkey")


@dataclass(frozen=True, slots=True)
class AgentRecord:
    """One record; `fields` as they lie in Valkey."""

    fields: Fields
    place: Place | None = None

    @property
    def ref(self) -> AgentRef:
        """The agent's name on this spoke."""
        return AgentRef(self.fields["tenant"], self.fields["id"])

    @property
    def status(self) -> str:
        """The state as the table of `common.agent_state` names it."""
        return self.fields["status"]

    @property
    def terminal(self) -> bool:
        """Whether the agent has ended."""
        return self.status in TERMINAL

    @property
    def attempt(self) -> int:
        """How often the agent was claimed to be started; raises `TamperedRecord`."""
        try:
            return int(self.fields["attempt"])
        except (KeyError, ValueError) as error:
            raise TamperedRecord("a record in the queue has no attempt; see who else writes to this Valkey") from error

    @property
    def granted(self) -> dict[str, int]:
        """What the spoke's policy left of what was asked."""
        return {name: int(self.fields[field]) for name, field in _GRANTED}

    @property
    def seq(self) -> int:
        """The number of transitions so far."""
        return int(self.fields["seq"])

    def to_status(self) -> dict[str, Any]:
        """Return AgentStatus as JSON values (PROTOCOL section 2.2); raises `TamperedRecord`."""
        try:
            return self._to_status()
        except _UNREADABLE as error:
            raise _tampered() from error

    def encode(self) -> bytes:
        """Return what `to_status` does as it goes over the wire; raises `TamperedRecord`."""
        fields, place = self.fields, self.place
        try:
            before, after = _encode_common(tuple(map(fields.get, _COMMON)))
            return _encode(fields["id"], fields["task"], before, place, after)
        except _UNREADABLE as error:
            raise _tampered() from error

    def _to_status(self) -> dict[str, Any]:
        fields = self.fields
        place = self.place
        return {
            "agentId": fields["id"],
            "taskId": fields["task"],
            "agentType": fields["type"],
            "status": self.status,
            "seq": self.seq,
            "attempt": self.attempt,
            "queuedAt": _time(fields, "queued_at"),
            "startedAt": _time(fields, "started_at"),
            "finishedAt": _time(fields, "finished_at"),
            "reason": fields.get("reason"),
            "exitCode": _integer(fields, "exit_code"),
            "signal": fields.get("signal"),
            "result": _json(fields, "result"),
            "granted": self.granted,
            "queue": None if place is None else place.to_json(),
            "receipt": _json(fields, "receipt"),
        }


_COMMON: Final = (
    "type", "status", "seq", "attempt", "queued_at", "started_at", "finished_at", "reason", "exit_code", "signal",
    "result", "priority", "timeout", "max_attempts", "receipt",
)  # fmt: skip
"""The fields that a status is made of, besides those in which agents of one envelope differ."""
_COMMON_BYTES: Final = tuple(name.encode() for name in _COMMON)


_NO_OWN: Final = b'{"agentId":"","taskId":"",'
_NO_QUEUE: Final = b',"queue":null}'


@lru_cache(maxsize=16)
def _encode_common(values: tuple[str | None, ...]) -> tuple[bytes, bytes]:
    """Return the members that stand between an agent's own and its place in the queue, and those that follow it."""
    fields = {name: value for name, value in zip(_COMMON, values, strict=True) if value is not None}
    status = AgentRecord({**fields, "id": "", "task": ""})._to_status()
    receipt = status.pop("receipt")  # so the queue is the last member, and the agent's own are the first
    encoded = strict_json.encode(status)
    return encoded[len(_NO_OWN) : -len(_NO_QUEUE)], b'"receipt":%s}' % strict_json.encode(receipt)


@lru_cache(maxsize=16)
def _decode_common(values: tuple[bytes | None, ...]) -> tuple[bytes, bytes]:
    return _encode_common(tuple(None if value is None else text_of(value) for value in values))


def _encode(agent_id: str, task_id: str, before: bytes, place: Place | None, after: bytes) -> bytes:
    queue = b"null" if place is None else place.encode()
    own = to_json(agent_id), to_json(task_id)
    return b'{"agentId":%s,"taskId":%s,%s,"queue":%s,%s' % (*own, before, queue, after)


def encode_status(fields: Mapping[bytes, bytes]) -> bytes:
    """Return AgentStatus of a record's fields as they lie in Valkey; raises `TamperedRecord`."""
    try:
        before, after = _decode_common(tuple(map(fields.get, _COMMON_BYTES)))
        return _encode(text_of(fields[b"id"]), text_of(fields[b"task"]), before, None, after)
    except _UNREADABLE as error:
        raise _tampered() from error


def decode_hash(fields: Mapping[bytes, bytes]) -> dict[str, str]:
    """Read a hash or the entry of a stream."""
    return {name.decode(): text_of(value) for name, value in fields.items()}


def read_place(place: Sequence[Any]) -> Place | None:
    """Read `[position, reason]`, or nothing."""
    return Place(int(place[0]), place[1].decode()) if place else None


def read_record(flat: Sequence[bytes], place: Sequence[Any] = ()) -> AgentRecord:
    """Read the answer of `describe` in the scripts: fields, and `[position, reason]` or nothing."""
    return AgentRecord(decode_fields(flat), read_place(place))
