"""The queue is not trusted: before anything is started, the signed envelope that asked for it is verified again.

What an agent is started with comes from the verified command alone, never from the record beside it. Whoever can
write to Valkey can therefore delay or drop agents, but cannot start one that no peer signed for (attack row 61). What
the operator requeued is signed by this spoke, for the peer whose agent it is (ADR 0006). Raises `TamperedRecord` and
nothing is started.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from common.commands import Command, Resume, Spawn, content_hash, resume_hash
from common.envelope import MAX_LIFETIME_S, Claims, VerifiedEnvelope, verify
from common.errors import EnvelopeRejected
from common.keyring import Keyring
from common.peers import LOCAL_TENANT, Peer, Trust
from spoke.agent_record import AgentRecord, TamperedRecord
from spoke.policy import LOCAL_POLICY, Policy

_CLOCK_TOLERANCE_S: Final = MAX_LIFETIME_S + 300


class StoredCommands:
    """Proves stored commands for the spoke `instance`, whose own keys (`own`) sign what its operator asks for."""

    def __init__(
        self, instance: str, own: Callable[[], Keyring], trust: Callable[[], Trust], policy_of: Callable[[Peer], Policy]
    ) -> None:
        self._instance = instance
        self._own = own
        self._trust = trust
        self._policy_of = policy_of

    def prove(self, record: AgentRecord, raw: bytes) -> Spawn:
        """Return the spawn that a peer of this record's tenant signed for this very agent; raises `TamperedRecord`."""
        return self.open(record, raw)[0]

    def open(self, record: AgentRecord, raw: bytes) -> tuple[Spawn, Claims]:
        """Return what `prove` does, and the claims of its envelope."""
        if _signed_by_us(record):
            # What we sign names its owner: nothing of one tenant can be passed off as another's.
            audience = self.owner(record.ref.tenant)
            envelope, spawn = _open(record, raw, self._own(), audience, at="queued_at", index="index")
        else:
            envelope, spawn = _open(record, raw, self._trust().keyring, self._instance, at="queued_at", index="index")
            self._check_sender(record, envelope)
        if not isinstance(spawn, Spawn) or spawn.id != record.ref.agent_id:
            raise TamperedRecord("the stored envelope asks for another agent; nothing was started")
        if content_hash(spawn) != record.fields.get("hash"):
            raise TamperedRecord("the stored envelope asks for something else; nothing was started")
        return spawn.model_copy(update={"timeout_s": self._timeout_s(record, spawn)}), envelope.claims

    def prove_resume(self, record: AgentRecord, raw: bytes) -> tuple[Resume, Claims] | None:
        """Return the last resume that the owner of this very agent signed, and the claims of its envelope.

        None for one that was never resumed.

        Raises `TamperedRecord`.
        """
        if "resume_env" not in record.fields:
            return None
        keyring = self._trust().keyring
        envelope, resume = _open(record, raw, keyring, self._instance, at="resumed_at", index="resume_index")
        self._check_sender(record, envelope)
        if not isinstance(resume, Resume) or resume.agent_id != record.ref.agent_id:
            raise TamperedRecord("the envelope of its resume is about another agent; nothing was started")
        if record.fields.get(f"resume:{resume.id}") != resume_hash(resume):
            raise TamperedRecord("the envelope of its resume asks for something else; nothing was started")
        return resume, envelope.claims

    def _timeout_s(self, record: AgentRecord, spawn: Spawn) -> int:
        """Return the seconds that were granted, never more than were asked for or than the policy gives now."""
        try:
            granted_s = int(record.fields["timeout"])
        except (KeyError, ValueError) as error:
            raise TamperedRecord("the record does not say what was granted; nothing was started") from error
        return max(1, min(spawn.timeout_s, granted_s, self._ceiling_s(record)))

    def _ceiling_s(self, record: AgentRecord) -> int:
        peer = self._trust().find(record.ref.tenant.rpartition("_")[0])
        return LOCAL_POLICY.max_timeout_s if peer is None else self._policy_of(peer).max_timeout_s

    def owner(self, tenant: str) -> str:
        """Return the instance that a tenant's agents belong to, ourselves for `local`; raises `TamperedRecord`."""
        if tenant == LOCAL_TENANT:
            return self._instance
        for peer in self._trust().peers():
            if peer.tenant == tenant:
                return peer.instance
        raise TamperedRecord("the agent's peer is gone; nothing was started")

    def _check_sender(self, record: AgentRecord, envelope: VerifiedEnvelope) -> None:
        peer = self._trust().find(envelope.claims.iss)
        if peer is None or peer.tenant != record.ref.tenant:
            raise TamperedRecord("the stored envelope is of another peer; nothing was started")


def _open(
    record: AgentRecord, raw: bytes, keyring: Keyring, audience: str, *, at: str, index: str
) -> tuple[VerifiedEnvelope, Command]:
    """Verify what the record says was accepted `at` a time, and return the command in it that is at `index`."""
    try:
        accepted_s = int(record.fields[at]) / 1000
        envelope = verify(raw, keyring, accepted_s)
        command = envelope.commands[int(record.fields[index])]
    except (EnvelopeRejected, KeyError, ValueError, IndexError) as error:
        raise TamperedRecord("the stored envelope does not verify; nothing was started") from error
    claims = envelope.claims
    if claims.aud != audience or abs(claims.iat - accepted_s) > _CLOCK_TOLERANCE_S:
        raise TamperedRecord("the stored envelope was not for this spoke at that time; nothing was started")
    return envelope, command


def _signed_by_us(record: AgentRecord) -> bool:
    return record.ref.tenant == LOCAL_TENANT or "origin" in record.fields
