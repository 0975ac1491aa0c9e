"""The audit chain: one JSON line per decision, with the SHA-256 of the line before it, sealed by signed checkpoints.

Decides what a line looks like and whether a run of lines is what a node wrote: an edited, removed, added or moved line
breaks the chain, and a checkpoint signed with the node's key seals everything before it. What comes after the last
checkpoint is **not yet sealed**, which is told apart from lines that are missing. Reads no file and no clock.

A line never holds payloads, tokens or keys, and nothing in it can write to a terminal (attack row 56).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from common import strict_json
from common.errors import HubspokeError, Malformed
from common.ids import rfc3339
from common.jose import Signer, decode_base64url, encode_base64url
from common.keyring import PublicKey
from common.logs import escape

CHECKPOINT: Final = "audit.checkpoint"
PRUNED: Final = "audit.pruned"
MAX_TEXT: Final = 200
_DIGEST_LENGTH: Final = 64
_encode: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
_PURPOSE: Final = "hubspoke-audit-v1"


@dataclass(frozen=True, slots=True)
class Entry:
    """One decision: a stable event name and what there is to know of it, ids and codes and names."""

    event: str
    fields: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Head:
    """The last line of a chain: its number from 1 and the SHA-256 of its bytes in hex."""

    number: int
    digest: str


START: Final = Head(0, "0" * _DIGEST_LENGTH)
"""What stands before the first line."""


def digest_of(line: bytes) -> str:
    """Return the SHA-256 of a line without its newline, in hex."""
    return hashlib.sha256(line).hexdigest()


def _bounded(value: object) -> object:
    """Return a value whose texts are short and printable, whatever a stranger put into them."""
    if isinstance(value, str):
        # Shortened first: one character may become ten.
        return escape(value if len(value) <= MAX_TEXT else value[:MAX_TEXT] + "…")
    if isinstance(value, Mapping):
        return {str(_bounded(str(name))): _bounded(member) for name, member in value.items()}
    if isinstance(value, Sequence):
        return [_bounded(member) for member in value]
    return value if value is None or isinstance(value, bool | int | float) else _bounded(str(value))


def write_line(head: Head, at_ms: int, entry: Entry) -> tuple[bytes, Head]:
    """Return the line that follows `head`, without newline, and the head it makes. `at_ms` is since the epoch."""
    members = {
        "n": head.number + 1,
        "prev": head.digest,
        "at": rfc3339(at_ms),
        "event": entry.event,
        **{name: _bounded(value) for name, value in entry.fields.items() if value is not None},
    }
    line = _encode(members).encode()
    return line, Head(head.number + 1, digest_of(line))


def _sealed_text(node: str, head: Head) -> bytes:
    # No compact JWS begins so: the signature means nothing anywhere else.
    return f"{_PURPOSE}.{node}.{head.number}.{head.digest}".encode()


def checkpoint(node: str, signer: Signer, key: PublicKey, head: Head, cause: str) -> Entry:
    """Return the entry that seals every line up to `head` with the node's key."""
    signature = encode_base64url(signer.sign(_sealed_text(node, head))).decode()
    return Entry(
        CHECKPOINT,
        {"node": node, "cause": cause, "kid": signer.kid, "key": key.to_jwk()["x"], "signature": signature},
    )


@dataclass(frozen=True, slots=True)
class Line:
    """A line that was read: its number, the digest it names as the one before, and all its members."""

    number: int
    previous: str
    event: str
    members: Mapping[str, Any]


def read_line(raw: bytes) -> Line:
    """Read one line without its newline; raises `Malformed` for what no node wrote."""
    members = strict_json.parse(raw)
    if not isinstance(members, dict):
        raise Malformed("the line is no JSON object")
    number, previous, event = members.get("n"), members.get("prev"), members.get("event")
    if type(number) is not int or number < 1 or not isinstance(previous, str) or not isinstance(event, str):
        raise Malformed("the line lacks n, prev or event")
    return Line(number, previous, event, members)


def _check_seal(line: Line, node: str) -> PublicKey:
    """Return the key that signed a checkpoint; raises `HubspokeError` when none did."""
    members = line.members
    key = PublicKey.from_jwk({"kty": "OKP", "crv": "Ed25519", "x": members.get("key")})
    signature = members.get("signature")
    raw = decode_base64url(signature.encode("utf-8", "replace") if isinstance(signature, str) else b"")
    key.verify(raw, _sealed_text(node, Head(line.number - 1, line.previous)))
    return key


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong, and where: the file and its line from 1 (0 for none in particular)."""

    file: str
    line: int
    what: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a chain is worth: its ends, how much is sealed by the current key, and everything that is wrong."""

    first: int
    last: int
    sealed: int
    last_at: str | None
    findings: tuple[Finding, ...]

    @property
    def unsealed(self) -> int:
        """How many lines came after the last checkpoint: not yet sealed, which is no fault."""
        return self.last - self.sealed


class Verification:
    """Takes the lines of one node in their order, then gives its verdict.

    `keys` are those that the node holds: only their checkpoints seal. They also seal what came before with former keys.
    """

    def __init__(self, node: str, keys: Collection[PublicKey], *, is_whole: bool = True) -> None:
        self._node = node
        self._keys = keys
        self._is_whole = is_whole
        self._head: Head | None = None
        self._first: Line | None = None
        self._first_file = ""
        self._sealed = 0
        self._last_at: str | None = None
        self._pruned: set[Head] = set()
        self._findings: list[Finding] = []
        self._awaited: Head | None = None
        self._is_awaited_here = False

    def expect(self, witness: Head) -> None:
        """Say before the first line that this head was seen elsewhere: it must be in the chain."""
        self._awaited = witness

    def take(self, file: str, place: int, raw: bytes) -> None:
        """Check the next line, without newline; `file` and `place` say where it stands."""
        digest = digest_of(raw)
        try:
            line = read_line(raw)
        except Malformed as error:
            self._findings.append(Finding(file, place, f"is no line of an audit file: {error.message}"))
            if self._head is not None:
                self._head = Head(self._head.number + 1, digest)
            return
        self._check_place(file, place, line)
        if line.event == CHECKPOINT:
            self._take_checkpoint(file, place, line)
        elif line.event == PRUNED:
            self._pruned.add(Head(line.members.get("last", 0), str(line.members.get("digest"))))
        self._last_at = str(line.members.get("at"))
        self._head = Head(line.number, digest)
        self._is_awaited_here = self._is_awaited_here or self._head == self._awaited

    def _check_place(self, file: str, place: int, line: Line) -> None:
        before = self._head
        if before is None:
            self._first, self._first_file = line, file
        elif line.number != before.number + 1:
            self._findings.append(Finding(file, place, _misplaced(before.number, line.number)))
        elif line.previous != before.digest:
            self._findings.append(
                Finding(file, place, f"line {before.number} is not the one that {line.number} followed")
            )

    def _take_checkpoint(self, file: str, place: int, line: Line) -> None:
        try:
            key = _check_seal(line, self._node)
        except HubspokeError as error:
            self._findings.append(
                Finding(file, place, f"the checkpoint is not signed by {self._node}: {error.message}")
            )
            return
        if key in self._keys:
            self._sealed = line.number

    def verdict(self) -> Verdict:
        """Return what was found."""
        self._check_beginning()
        self._check_awaited()
        last = 0 if self._head is None else self._head.number
        first = 0 if self._first is None else self._first.number
        if last and not self._sealed:
            self._findings.append(Finding("", 0, "no checkpoint by a key that the node holds: nothing is sealed"))
        return Verdict(first, last, self._sealed, self._last_at, tuple(self._findings))

    def _check_beginning(self) -> None:
        if self._first is None or not self._is_whole:
            return
        before = Head(self._first.number - 1, self._first.previous)
        if before not in {START, *self._pruned}:
            what = f"lines 1 to {before.number} are missing, and no later line says that they were removed"
            self._findings.append(Finding(self._first_file, 1, what if before.number else "line 1 follows something"))

    def _check_awaited(self) -> None:
        if self._awaited is None or self._is_awaited_here:
            return
        last = 0 if self._head is None else self._head.number
        if self._awaited.number > last:
            what = f"lines {last + 1} to {self._awaited.number} are missing: a checkpoint there was seen before"
        elif self._first is not None and self._awaited.number < self._first.number:
            return
        else:
            what = f"line {self._awaited.number} is not the checkpoint that was seen there before"
        self._findings.append(Finding("", 0, what))


def _misplaced(before: int, number: int) -> str:
    if number > before + 1:
        return f"lines {before + 1} to {number - 1} are missing"
    return f"line {number} stands after line {before}: lines were moved, repeated or added"
