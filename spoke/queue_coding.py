"""How the queue's steps become arguments of its scripts, and answers become records. The other side is in scripts/."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from common.commands import content_hash, resume_hash
from spoke.agent_record import AgentRecord, AgentRef, decode_fields, read_place, read_record
from spoke.policy import Policy, grant
from spoke.queue_terms import (
    Asked,
    Claim,
    FreezeStep,
    KillStep,
    KnownStep,
    NoStep,
    ResumedStep,
    ResumeStep,
    SpawnStep,
    StatusStep,
    Step,
    ThawStep,
)

_STRIDE: Final = 9
KILLED_AT_ONCE: Final = 5000


def encode_step(step: Step, policy: Policy) -> list[str | int]:
    """Return the arguments of one step in `accept.lua`, filled up to its stride."""
    match step:
        case SpawnStep(spawn, index):
            granted = grant(policy, spawn)
            # The hash is that of what was asked for: the same command asked again is the same under any policy.
            arguments: list[str | int] = [
                "spawn", spawn.id, content_hash(spawn), index, spawn.task_id, spawn.agent_type, granted.priority,
                granted.timeout_s, granted.max_attempts,
            ]  # fmt: skip
        case KnownStep(spawn):
            arguments = ["known", spawn.id, content_hash(spawn)]
        case ResumeStep(resume, index):
            arguments = ["resume", resume.id, resume_hash(resume), index, resume.agent_id]
        case ResumedStep(resume):
            arguments = ["resumed", resume.id, resume_hash(resume), "", resume.agent_id]
        case StatusStep(agent_id):
            arguments = ["status", agent_id]
        case KillStep(agent_id):
            arguments = ["kill", agent_id, step.to_json(), step.cause]
        case FreezeStep(command_id, None):
            arguments = ["freeze", command_id]
        case FreezeStep(command_id, KillStep() as kill):
            arguments = ["freeze", command_id, kill.to_json(), kill.cause, KILLED_AT_ONCE]
        case ThawStep(command_id):
            arguments = ["thaw", command_id]
        case NoStep():
            arguments = ["none"]
    return arguments + [""] * (_STRIDE - len(arguments))


def new_record(tenant: str, arguments: Sequence[str | int], queued_at: bytes, place: Sequence[Any]) -> AgentRecord:
    """Return the record that `accept.lua` has just made of the arguments of a spawn, as far as it is shown."""
    _, agent_id, _, _, task, agent_type, priority, timeout, max_attempts = arguments
    fields = {
        "id": str(agent_id),
        "tenant": tenant,
        "status": "queued",
        "seq": "1",
        "attempt": "0",
        "task": str(task),
        "type": str(agent_type),
        "priority": str(priority),
        "timeout": str(timeout),
        "max_attempts": str(max_attempts),
        "queued_at": queued_at.decode(),
    }
    return AgentRecord(fields, read_place(place))


def worker_prefix(machine: str) -> str:
    """Return what the names of all workers of another machine begin with, in the scripts too."""
    return f"@{machine}/"


def held_arguments(claim: Claim) -> tuple[str, str, str]:
    """Return the arguments by which scripts know a lease: tenant, id, token."""
    return claim.record.ref.tenant, claim.record.ref.agent_id, claim.token


def ref_of_member(member: bytes) -> AgentRef:
    """Read a member of the index of all agents."""
    agent_id, _, tenant = member.decode().partition(" ")
    return AgentRef(tenant, agent_id)


def read_claim(answer: Sequence[Any]) -> Claim | None:
    """Read the answer of `claim.lua` and `reclaim.lua`."""
    if not answer:
        return None
    token, spawn, flat, tenant, agent_id, resume = answer
    # Whose agent it is says the place where it lay, not the record, which a stranger to the scripts may have written.
    fields = {**decode_fields(flat), "tenant": tenant.decode(), "id": agent_id.decode()}
    return Claim(AgentRecord(fields), token.decode(), Asked(spawn, resume))


def read_kill(text: bytes) -> KillStep | bool:
    """Read one answer of `renew.lua` about a lease that is held: the kill that was asked for, or True."""
    if not text:
        return True
    kill = json.loads(text)
    return KillStep("", kill["grace_s"], kill["cause"], kill["reason"])


def rate_exceeded(policy: Policy, rule: str) -> str:
    """Return what a peer reads when `accept.lua` found it to be faster than this rule allows."""
    what = "commands" if rule == "commands_per_s" else "envelopes"
    return f"policy.{rule} allows {getattr(policy, rule)} {what} a second"


def read_described(answer: Sequence[Any]) -> AgentRecord | None:
    """Read what `describe` in the scripts answers."""
    return read_record(answer[1], answer[2]) if answer[0] == b"agent" else None
