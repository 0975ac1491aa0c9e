"""Reading an audit: is it what the node wrote, and which of its lines are about something."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from common.audit import CHECKPOINT, Verdict, Verification, read_line
from common.audit_directory import AuditDirectory, Snapshot
from common.errors import Malformed
from common.keyring import PublicKey


def verify_audit(directory: AuditDirectory, node: str, keys: Collection[PublicKey], since: str = "") -> Verdict:
    """Check the chain of the node `node`, which holds `keys`, from the first line at or after `since` (RFC 3339) on.

    Raises `AuditUnreadable`.
    """
    with directory.snapshot() as snapshot:
        verification = Verification(node, keys, is_whole=not since)
        if snapshot.witness is not None:
            verification.expect(snapshot.witness)
        begun = not since
        for file, place, raw in snapshot.lines():
            begun = begun or _at(raw) >= since
            if begun:
                verification.take(file, place, raw)
        return verification.verdict()


def _at(raw: bytes) -> str:
    try:
        return str(read_line(raw).members.get("at", ""))
    except Malformed:
        return ""


@dataclass(frozen=True, slots=True)
class Filter:
    """What a line must have where it is not empty; `about` is an id anywhere in it, a time is RFC 3339 or its start."""

    since: str = ""
    until: str = ""
    event: str = ""
    peer: str = ""
    by: str = ""
    outcome: str = ""
    about: str = ""

    def takes(self, members: Mapping[str, Any]) -> bool:
        """Whether a line passes."""
        at = str(members.get("at", ""))
        named = {"event": self.event, "peer": self.peer, "by": self.by, "outcome": self.outcome}
        return (
            at >= self.since
            and (not self.until or at[: len(self.until)] <= self.until)
            and all(not wanted or members.get(name) == wanted for name, wanted in named.items())
            and (not self.about or _mentions(members, self.about))
            and (members["event"] != CHECKPOINT or self.event == CHECKPOINT)
        )


def _mentions(value: Any, text: str) -> bool:
    if isinstance(value, Mapping):
        return any(_mentions(member, text) for member in value.values())
    if isinstance(value, list):
        return any(_mentions(member, text) for member in value)
    return bool(value == text)


def select_lines(snapshot: Snapshot, wanted: Filter) -> Iterator[Mapping[str, Any]]:
    """Yield the members of each line that the filter takes, oldest first; damaged lines are for `verify_audit`."""
    for _, _, raw in snapshot.lines():
        try:
            members = read_line(raw).members
        except Malformed:
            continue
        if wanted.takes(members):
            yield members
