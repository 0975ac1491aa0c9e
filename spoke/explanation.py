"""What would become of a spawn, rule by rule, without running anything: for an operator who writes a policy.

Pure, and made of the very rules that decide: `spoke.policy` says what, this says it in order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from common import strict_json
from common.commands import SpawnFields
from common.errors import CommandRefused, LocalError, Malformed
from common.peers import Peer
from common.wire import first_problem
from spoke.policy import Policy, Verdict, grant, judge_command, judge_spawn


@dataclass(frozen=True, slots=True)
class Explanation:
    """What each rule says, and what comes of it: `refusal` is the first refusal, or None."""

    verdicts: tuple[Verdict, ...]
    refusal: Verdict | None
    granted: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """Return it as facts."""
        refusal = self.refusal
        return {
            "outcome": "accepted" if refusal is None else "refused",
            "code": None if refusal is None else _code(refusal),
            "detail": None if refusal is None else refusal.detail,
            "granted": self.granted if refusal is None else None,
            "rules": [
                {"rule": each.rule, "allows": each.refusal is None, "detail": each.detail} for each in self.verdicts
            ],
        }


def _code(verdict: Verdict) -> str | None:
    return None if verdict.refusal is None else verdict.refusal.code


def parse_spawn(raw: bytes) -> SpawnFields:
    """Read the JSON of a spawn, with or without `id` and `command`; raises `LocalError` naming what is wrong."""
    try:
        members = strict_json.parse(raw)
        if not isinstance(members, dict):
            raise Malformed("a spawn is a JSON object")
        fields = {name: value for name, value in members.items() if name not in {"id", "command"}}
        return SpawnFields.model_validate(fields)
    except Malformed as error:
        raise LocalError(f"that is no spawn: {error.message}", code="malformed") from error
    except ValidationError as error:
        raise LocalError(f"that is no spawn: {first_problem(error)}", code="malformed") from error


def explain(peer: Peer, policy: Policy, spawn: SpawnFields) -> Explanation:
    """Say what each rule would decide about a spawn of this peer."""
    verdicts = tuple(_verdicts(peer, policy, spawn))
    refusal = next((verdict for verdict in verdicts if verdict.refusal is not None), None)
    return Explanation(verdicts, refusal, grant(policy, spawn)._asdict())


def _verdicts(peer: Peer, policy: Policy, spawn: SpawnFields) -> Iterator[Verdict]:
    yield _judge_connection(peer)
    yield judge_command(policy, "spawn")
    yield from judge_spawn(policy, spawn)
    granted = grant(policy, spawn)
    yield _ceiling("best_priority", "priority", spawn.priority, granted.priority)
    yield _ceiling("max_timeout_s", "timeoutS", spawn.timeout_s, granted.timeout_s)
    yield _ceiling("max_attempts", "maxAttempts", spawn.max_attempts, granted.max_attempts)
    yield _counted("queued", policy.queued, "agents of this peer may wait")
    yield _counted("agents", policy.agents, "agents of this peer run at once; more of them wait")
    yield _counted("rate_per_s", policy.rate_per_s, "envelopes a second are taken")
    yield _counted("commands_per_s", policy.commands_per_s, "commands a second are taken")
    yield _counted("store_mib", policy.store_mib, "MiB are kept for this peer, 0 being any number")


def _judge_connection(peer: Peer) -> Verdict:
    if peer.state == "active":
        return Verdict("connection", f"{peer.instance} is active")
    refusal = CommandRefused("not_allowed", f"{peer.instance} is {peer.state}; only an active peer is heard")
    return Verdict("connection", refusal.message, refusal)


def _ceiling(rule: str, member: str, asked: int, granted: int) -> Verdict:
    what = f"{member} {asked} is granted" if asked == granted else f"{member} {asked} becomes {granted}"
    return Verdict(f"policy.{rule}", what)


def _counted(rule: str, number: int, what: str) -> Verdict:
    if rule == "queued" and number == 0:
        refusal = CommandRefused("quota_exceeded", "policy.queued: no agent of this peer may wait")
        return Verdict("policy.queued", refusal.message, refusal)
    return Verdict(f"policy.{rule}", f"{number} {what}, counted when it comes")
