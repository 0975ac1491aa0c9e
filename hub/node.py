"""One hub before it runs: what its directory holds, read and checked, and the stores that lie outside Valkey."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

from common.audit_file import Audit
from common.clock import SystemClock
from common.connection import Node
from common.keyfiles import load_signing_key, load_token
from common.keyring import SigningKey
from common.own_keys import KeyFiles
from common.tls import Reach
from common.trust_store import TrustStore
from hub.settings import HubDirectory, HubSettings
from hub.tokens import TokenStore
from hub.webhook_store import WebhookStore


@dataclass(slots=True)
class Hub:
    """One hub before it runs: its directory, settings, key and token, all read and checked."""

    directory: HubDirectory
    settings: HubSettings
    """Those in force: a reload replaces them."""
    key: SigningKey
    token: str = field(repr=False)

    @classmethod
    def load(cls, directory: HubDirectory, settings: HubSettings) -> Hub:
        """Read key and token; raises `KeyFileError`."""
        key = load_signing_key(directory.key_file(settings.node.id))
        return cls(directory, settings, key, load_token(directory.token_file))

    @property
    def me(self) -> Node:
        """Who we are to the checks of every envelope."""
        return Node(self.settings.node.id, "hub", self.settings.node.skew_s)

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


@dataclass(frozen=True, slots=True)
class Stores:
    """What lies outside Valkey: peers, tokens, webhooks, and the audit of every change to them."""

    audit: Audit
    trust: TrustStore
    tokens: TokenStore
    webhooks: WebhookStore


@contextmanager
def open_stores(hub: Hub) -> Iterator[Stores]:
    """Open them, until the block ends."""
    with (
        closing(hub.open_audit()) as audit,
        closing(hub.open_trust(audit)) as trust,
        closing(TokenStore(hub.directory.trust_file, audit.tell)) as tokens,
        closing(WebhookStore(hub.directory.trust_file, hub.directory.webhook_key, audit.tell)) as webhooks,
    ):
        yield Stores(audit, trust, tokens, webhooks)
