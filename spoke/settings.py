"""The spoke's configuration: `DIR/spoke.toml`, overridden by `SPOKE_SECTION__NAME`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field

from common.agent_state import AgentType
from common.configuration import (
    LOG_AND_AUDIT,
    AuditSection,
    ConfigError,
    LogSection,
    NodeDirectory,
    NodeSection,
    NodeSettings,
    PeerUrl,
    Section,
    TlsSection,
    ValkeySection,
    load_settings,
)
from common.telemetry import TelemetrySection
from common.wire import InstanceId
from spoke.policy import Policy
from spoke.profiles import AgentConfig, Shelf

__all__ = ["ConfigError", "SpokeDirectory", "SpokeSettings", "load"]

DEFAULT_LISTEN: Final = "127.0.0.1:8701"

FRESH_TABLES: Final = """\
[valkey]
url = "embedded"                    # or redis://…, rediss://…, unix://…

[limits]
agents = 4                          # at once on this spoke; 0 accepts and queues without starting
queue = 10000
log_mib = 64                        # per agent

[agents.worker]                     # `report` needs no account; see `spoke profile list`
profile = "report"                  # sandbox = "bwrap" confines it; its limits go into [agents.worker.limits]

[agents.reviewer]
profile = "report"

[agents.tester]
profile = "report"

[policy]                            # for a peer that has none of its own; what is not allowed is refused
commands = ["spawn", "status", "kill", "logs"]
agent_types = ["worker", "reviewer", "tester"]
repositories = []                   # nothing yet; such as "https://git.example.org/team/**"
agents = 4                          # at once; see docs/operations.md for branches, skills and ceilings
queued = 1000
rate_per_s = 50
"""


class SpokeNodeSection(NodeSection):
    """`[node]` of a spoke: also what it tells hubs of itself, and whether it dials them.

    `link` `auto` dials, and posts events while there is no link; `always` dials, and sends nothing any other way;
    `never` does not dial.
    """

    link: Literal["auto", "always", "never"] = "auto"
    labels: Annotated[dict[str, Annotated[str, Field(max_length=256)]], Field(max_length=64)] = Field(
        default_factory=dict
    )


class LimitsSection(Section):
    """`[limits]`: agents at once, agents queued, size of an agent's log, and what is kept of ended agents.

    `retention_days` is how long an ended agent is kept, `disk_gib` how much disk all agents may take together (0: no
    bound), `mirror_days` how long a repository is kept that no agent uses. `cgroup` is `off` to leave control groups
    alone where they were delegated. A machine of which nothing was heard for `machine_lost_s` is given up (0: never).
    """

    agents: Annotated[int, Field(ge=0)] = 4
    queue: Annotated[int, Field(ge=1)] = 10_000
    log_mib: Annotated[int, Field(ge=1)] = 64
    retention_days: Annotated[int, Field(ge=1)] = 30
    disk_gib: Annotated[float, Field(ge=0)] = 0
    mirror_days: Annotated[int, Field(ge=1)] = 30
    machine_lost_s: Annotated[int, Field(ge=0)] = 3600
    cgroup: Literal["auto", "off"] = "auto"


class LocalSection(Section):
    """`[local]`: the API for this machine; `remote` opens it, with its token, to other machines."""

    remote: bool = False


class MachineSection(Section):
    """`[machine]`, where this directory is another machine's: the `spoke` it works for, at which URL, by which key."""

    spoke: InstanceId
    node_url: PeerUrl
    node_key: Annotated[str, Field(pattern=r"^ed25519:[A-Za-z0-9_-]{43}$")]


class SpokeSettings(NodeSettings):
    """The whole of `spoke.toml`."""

    node: SpokeNodeSection
    valkey: ValkeySection = ValkeySection()
    limits: LimitsSection = LimitsSection()
    local: LocalSection = LocalSection()
    audit: AuditSection = AuditSection()
    log: LogSection = LogSection()
    tls: TlsSection = TlsSection()
    telemetry: TelemetrySection = TelemetrySection()
    agents: dict[AgentType, AgentConfig] = Field(default_factory=dict)
    policy: Policy = Policy()
    machine: MachineSection | None = None


LIVE: Final = LOG_AND_AUDIT | {
    *("agents", "policy", "node.labels"),
    *(f"limits.{name}" for name in LimitsSection.model_fields if name != "cgroup"),
}
"""What a reload changes; docs/operations.md has the same as a table."""


@dataclass(frozen=True, slots=True)
class SpokeDirectory(NodeDirectory):
    """The directory of one spoke."""

    @property
    def settings_file(self) -> Path:
        """The configuration."""
        return self.path / "spoke.toml"

    @property
    def token_file(self) -> Path:
        """The bearer token of the local API."""
        return self.path / "local.token"

    @property
    def workspaces(self) -> Path:
        """Mirrors and the agents' trees."""
        return self.path / "workspaces"

    @property
    def runs(self) -> Path:
        """What is kept of each attempt: log, result, records."""
        return self.path / "runs"


def load(directory: SpokeDirectory) -> SpokeSettings:
    """Read the settings of a spoke's directory; raises `ConfigError`, LocalError `config` for a profile."""
    settings = load_settings(SpokeSettings, directory.settings_file, "spoke")
    shelf = Shelf(directory.path)
    for agent_type, config in settings.agents.items():
        shelf.resolve(config, agent_type)
    return settings
