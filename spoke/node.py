"""One spoke before it runs: what its directory says of it, read and checked; also what works without a running node."""

from __future__ import annotations

from dataclasses import dataclass, field

from common.audit_file import Audit
from common.clock import SystemClock
from common.connection import Node
from common.keyfiles import load_signing_key, load_token
from common.keyring import SigningKey
from common.own_keys import KeyFiles
from common.peers import Peer
from common.tls import Reach
from common.trust_store import TrustStore
from spoke.policy import Policy, read_policy
from spoke.queue_terms import Bounds
from spoke.settings import SpokeDirectory, SpokeSettings


@dataclass(slots=True)
class Spoke:
    """One spoke before it runs: its directory, settings, key and token, all read and checked."""

    directory: SpokeDirectory
    settings: SpokeSettings
    """Those in force: a reload replaces them."""
    key: SigningKey
    token: str = field(repr=False)

    @classmethod
    def load(cls, directory: SpokeDirectory, settings: SpokeSettings) -> Spoke:
        """Read key and token; raises `KeyFileError`."""
        key = load_signing_key(directory.key_file(settings.node.id))
        return cls(directory, settings, key, load_token(directory.token_file))

    @property
    def me(self) -> Node:
        """Who we are to the checks of every envelope."""
        return Node(self.settings.node.id, "spoke", self.settings.node.skew_s)

    @property
    def bounds(self) -> Bounds:
        """The limits of the queue."""
        limits = self.settings.limits
        return Bounds(limits.agents, limits.queue, limits.retention_days, self.settings.node.skew_s)

    def policy_of(self, peer: Peer) -> Policy:
        """Return the peer's own policy, or the one for all."""
        return self.settings.policy if peer.policy is None else read_policy(dict(peer.policy), peer.instance)

    @property
    def key_files(self) -> KeyFiles:
        """Its private keys."""
        return self.directory.key_files(self.settings.node.id)

    @property
    def reach(self) -> Reach:
        """How it dials."""
        return self.settings.tls.reach(self.directory.path, plain_http=self.settings.node.insecure_plain_http)

    def open_trust(self, audit: Audit) -> TrustStore:
        """Open the trust store, whose changes are audited; close it when done."""
        return TrustStore(self.directory.trust_file, self.settings.node.id, self.key.public, audit.tell)

    def open_audit(self) -> Audit:
        """Return the audit; close it when done."""
        bounds = self.settings.audit.bounds
        return Audit(self.directory.audit, self.settings.node.id, self.key, SystemClock(), bounds)
