"""The hub's configuration: `DIR/hub.toml`, overridden by `HUB_SECTION__NAME`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field

from common.configuration import (
    LOG_AND_AUDIT,
    AuditSection,
    ConfigError,
    LogSection,
    NodeDirectory,
    NodeSection,
    NodeSettings,
    Section,
    TlsSection,
    ValkeySection,
    load_settings,
)
from common.telemetry import TelemetrySection

__all__ = ["ConfigError", "HubDirectory", "HubSettings", "load"]

DEFAULT_LISTEN: Final = "127.0.0.1:8700"

FRESH_TABLES: Final = """\
[valkey]
url = "embedded"                    # or redis://…, rediss://…, unix://…

[outbox]
limit = 100000                      # commands that may wait for one spoke

[retention]
ended_days = 30                     # how long agents that ended are kept; 0 for ever
ended_agents = 100000               # how many of them at most; 0 is no bound
"""


class OutboxSection(Section):
    """`[outbox]`: how many commands may wait for one spoke."""

    limit: Annotated[int, Field(ge=1)] = 100_000


class WebhooksSection(Section):
    """`[webhooks]`: after how many hours of failing a webhook is given up."""

    give_up_h: Annotated[int, Field(ge=1, le=8760)] = 120


class RetentionSection(Section):
    """`[retention]`: for how many days, and how many, agents that ended are kept; 0 is no bound."""

    ended_days: Annotated[int, Field(ge=0, le=36_500)] = 30
    ended_agents: Annotated[int, Field(ge=0)] = 100_000


class HubSettings(NodeSettings):
    """The whole of `hub.toml`."""

    node: NodeSection
    valkey: ValkeySection = ValkeySection()
    outbox: OutboxSection = OutboxSection()
    webhooks: WebhooksSection = WebhooksSection()
    retention: RetentionSection = RetentionSection()
    audit: AuditSection = AuditSection()
    log: LogSection = LogSection()
    tls: TlsSection = TlsSection()
    telemetry: TelemetrySection = TelemetrySection()


LIVE: Final = LOG_AND_AUDIT | {"outbox.limit", "retention.ended_agents", "retention.ended_days", "webhooks.give_up_h"}
"""What a reload changes; docs/operations.md has the same as a table."""


@dataclass(frozen=True, slots=True)
class HubDirectory(NodeDirectory):
    """The directory of one hub."""

    @property
    def settings_file(self) -> Path:
        """The configuration."""
        return self.path / "hub.toml"

    @property
    def token_file(self) -> Path:
        """The bearer token of the admin API."""
        return self.path / "admin.token"

    @property
    def webhook_key(self) -> Path:
        """What the secrets of webhooks are derived from; there is none before the first webhook."""
        return self.path / "webhook.key"


def load(directory: HubDirectory) -> HubSettings:
    """Read the settings of a hub's directory; raises `ConfigError`."""
    return load_settings(HubSettings, directory.settings_file, "hub")
