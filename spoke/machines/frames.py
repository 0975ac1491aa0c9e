"""What a node and its machine say to each other, as signed bytes of types that the federation does not know.

Both sides prove at the start that they hold their key, by signing the other's fresh challenge. From then on every frame
is signed too, and names the session (both challenges) and its place in the order: one of another session, one that
comes twice, one that is missing, one that comes back to its sender are all refused, without looking at any clock.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common import jose, strict_json
from common.errors import BadSignature, EnvelopeRejected, Malformed
from common.handshake import NONCE_BYTES, encode_nonce
from common.keyring import PublicKey, SigningKey
from common.wire import InstanceId, Nonce, first_problem

LINK_PATH: Final = "/machines/v1/link"
SUBPROTOCOL: Final = "hubspoke.machine.v1"
HELLO_TYPE: Final = "hubspoke-machine-hello+jwt"
FRAME_TYPE: Final = "hubspoke-machine+jwt"
COPIED: Final = "conflict"
"""The code of the refusal when another process works with the same key."""


class Word(BaseModel):
    """What one side says to the other: known members of their exact types and nothing else."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)


class Challenge(Word):
    """The node's first message."""

    challenge: Nonce


class Hello(Word):
    """A machine's answer to it, `iss` the machine for the spoke `aud`; and the node's to that, without `challenge`.

    In the machine's, `process` is the same as long as the process lives that dials, and no other's.
    """

    iss: InstanceId
    aud: InstanceId
    nonce: Nonce
    challenge: Nonce | None = None
    process: Nonce | None = None
    machine: str | None = None
    """In the node's: the id under which it knows the machine."""


class _Frame(Word):
    session: str
    aud: str
    seq: int = Field(ge=1)
    body: dict[str, Any]


class Ask(Word):
    """A question, with a number that its answer repeats."""

    ask: int
    what: str
    about: dict[str, Any]


class Problem(Word):
    """Why something was not answered."""

    code: str
    message: str


class Answer(Word):
    """The answer to the question of that number."""

    answer: int
    told: dict[str, Any] = Field(default_factory=dict)
    error: Problem | None = None


def read_body(body: dict[str, Any]) -> Ask | Answer:
    """Return what a frame says; raises `Malformed`."""
    try:
        return Ask.model_validate(body) if "ask" in body else Answer.model_validate(body)
    except ValidationError as error:
        raise Malformed(f"a frame is a question or an answer: {first_problem(error)}") from error


def fresh_nonce() -> str:
    """Return a challenge that nobody has seen before."""
    return encode_nonce(os.urandom(NONCE_BYTES))


def read_challenge(raw: bytes) -> str:
    """Return the challenge of the node's first message; raises `Malformed`."""
    try:
        return Challenge.model_validate(strict_json.parse(raw)).challenge
    except ValidationError as error:
        raise Malformed(f"the first message is a challenge: {first_problem(error)}") from error


def seal_hello(key: SigningKey, hello: Hello) -> bytes:
    """Sign a HELLO."""
    return jose.sign_compact(key, HELLO_TYPE, strict_json.encode(hello.model_dump(exclude_none=True)))


def parse_signed(raw: bytes, typ: str) -> jose.CompactJws:
    """Take signed bytes of a type apart, believing nothing yet; raises `EnvelopeRejected`."""
    jws = jose.parse_compact(raw)
    if jws.typ != typ:
        raise Malformed(f"this is not of the type {typ}")
    return jws


def open_hello(jws: jose.CompactJws, key: PublicKey, nonce: str) -> Hello:
    """Return a HELLO that `key` signed over our challenge; raises `EnvelopeRejected`."""
    if jws.kid != key.kid:
        raise BadSignature("another key signed")
    try:
        hello = Hello.model_validate(strict_json.parse(jws.verify(key)))
    except ValidationError as error:
        raise Malformed(f"this is no HELLO: {first_problem(error)}") from error
    if hello.nonce != nonce:
        raise EnvelopeRejected("replayed", "the HELLO does not answer the challenge of this link; dial again")
    return hello


@dataclass(slots=True)
class Session:
    """One side of an open channel: signs with `own`, believes `other`. Not for two channels."""

    own: SigningKey
    other: PublicKey
    name: str
    sent: int = 0
    taken: int = 0

    def seal(self, body: dict[str, Any]) -> bytes:
        """Return the next frame."""
        self.sent += 1
        frame = {"session": self.name, "aud": self.other.kid, "seq": self.sent, "body": body}
        return jose.sign_compact(self.own, FRAME_TYPE, strict_json.encode(frame))

    def open(self, raw: bytes) -> dict[str, Any]:
        """Return the body of the other side's next frame; raises `EnvelopeRejected` for anything else."""
        jws = parse_signed(raw, FRAME_TYPE)
        if jws.kid != self.other.kid:
            raise BadSignature("another key signed")
        try:
            frame = _Frame.model_validate(strict_json.parse(jws.verify(self.other)))
        except ValidationError as error:
            raise Malformed(f"this is no frame: {first_problem(error)}") from error
        if (frame.session, frame.aud, frame.seq) != (self.name, self.own.kid, self.taken + 1):
            raise EnvelopeRejected("replayed", "the frame is of another session, or not the next one of this")
        self.taken += 1
        return frame.body
