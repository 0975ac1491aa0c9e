"""The questions and answers of a channel, as models: what comes from the other machine is checked like any input."""

from __future__ import annotations

import base64
from typing import Annotated, Any, Final, TypeVar

from pydantic import BaseModel, Field, ValidationError

from common.errors import Malformed
from common.keyring import OwnedKey
from common.peers import Peer
from common.strict_json import MAX_INTEGER
from common.wire import Uuid7, first_problem
from spoke.agent_record import AgentRecord, AgentRef
from spoke.machines.frames import Word
from spoke.machines.registry import read_key, write_key
from spoke.patches import has_changed
from spoke.runs import LogSlice

MAX_PIECE: Final = 256 * 1024
"""Bytes of a log or a patch in one answer: twice in base64 they fit a frame."""
_Number = Annotated[int, Field(ge=0, le=MAX_INTEGER)]
M = TypeVar("M", bound=BaseModel)


class Lease(Word):
    """The lease under which a machine's worker holds an agent: what it asks the node about."""

    tenant: str
    agent: Uuid7
    token: str
    attempt: _Number

    @property
    def ref(self) -> AgentRef:
        """The agent's name."""
        return AgentRef(self.tenant, self.agent)


class Key(Word):
    """A public key, and when it retires (epoch seconds)."""

    x: str
    retires_at: int | None

    def owned_by(self, owner: str) -> OwnedKey:
        """Return it as a key of `owner`; raises `KeyRefused`."""
        return OwnedKey(owner, read_key(self.x), self.retires_at)

    @classmethod
    def of(cls, owned: OwnedKey) -> Key:
        """Take it from a keyring."""
        return cls(x=write_key(owned.key), retires_at=owned.retires_at)


class Owner(Word):
    """The hub whose agent it is, as the node's trust has it; `connection` is the number of its tenant."""

    instance: str
    connection: int
    keys: list[Key]
    max_timeout_s: int

    def to_peer(self) -> Peer:
        """Return it as a peer; raises `KeyRefused`."""
        keys = tuple(key.owned_by(self.instance) for key in self.keys)
        return Peer(self.instance, "hub", "active", self.connection, keys)


class Proof(Word):
    """By which keys a machine verifies what it is to start: its owner's (None for the node's own), and the node's."""

    owner: Owner | None
    own: list[Key]


class Rules(Word):
    """Whose agents may start now and how many at once, how many there may be in all, how long ended ones are kept."""

    limits: dict[str, _Number]
    agents: _Number
    retention_days: _Number


class Reading(Word):
    """A piece of a log or a patch of an agent in a state."""

    tenant: str
    agent: Uuid7
    attempt: _Number
    status: str
    has_changed: bool
    offset: _Number
    limit: Annotated[int, Field(ge=0, le=MAX_PIECE)]

    @classmethod
    def of(cls, record: AgentRecord, offset: int, limit: int) -> Reading:
        """Ask about a record."""
        return cls(
            tenant=record.ref.tenant,
            agent=record.ref.agent_id,
            attempt=record.attempt,
            status=record.status,
            has_changed=has_changed(record),
            offset=offset,
            limit=min(limit, MAX_PIECE),
        )

    def record(self) -> AgentRecord:
        """Return as much of the record as the disk's readers look at."""
        result = '{"diffStat": {"files": 1}}' if self.has_changed else "{}"
        return record_of(self.tenant, self.agent, self.attempt, self.status, result)


class Piece(Word):
    """What was read, in base64."""

    offset: int
    data: str
    end: bool

    @classmethod
    def of(cls, piece: LogSlice) -> Piece:
        """Encode it."""
        return cls(offset=piece.offset, data=base64.b64encode(piece.data).decode(), end=piece.end)

    def to_slice(self) -> LogSlice:
        """Decode it; raises `Malformed`."""
        try:
            return LogSlice(self.offset, base64.b64decode(self.data, validate=True), end=self.end)
        except ValueError as error:
            raise Malformed("a piece is in base64") from error


class Message(Word):
    """A message for a running agent."""

    tenant: str
    agent: Uuid7
    attempt: _Number
    status: str
    message: Uuid7
    text: str


class End(Word):
    """An agent that is to end though the store is away: of that hub, or of any."""

    agent: Uuid7
    peer: str | None
    grace_s: _Number


def record_of(tenant: str, agent: str, attempt: int, status: str, result: str = "{}") -> AgentRecord:
    """Return a record of no more than that."""
    fields = {"tenant": tenant, "id": agent, "attempt": str(attempt), "status": status, "result": result}
    return AgentRecord(fields)


def read(model: type[M], values: dict[str, Any]) -> M:
    """Read what the other side said; raises `Malformed`."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise Malformed(f"the other side said what this version does not know: {first_problem(error)}") from error


def write(value: BaseModel) -> dict[str, Any]:
    """Return it as what a frame carries."""
    return value.model_dump(mode="json")
