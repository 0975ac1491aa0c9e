"""The spoke's configuration: `DIR/spoke.toml`, overridden by `SPOKE_*` variables; a typo in either is an error.

Refuses unknown names, so that a rule an operator believes in is a rule in force.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from common.agent_state import AgentType
from common.connection import DEFAULT_SKEW_S
from common.errors import LocalError
from common.http import parse_listen
from common.peer_url import check_peer_url
from common.wire import InstanceId, first_problem
from spoke.policy import Policy
from spoke.profiles import AgentConfig

CONFIG_NAME: Final = "spoke.toml"
DEFAULT_LISTEN: Final = "127.0.0.1:8701"
_OWN_VARIABLES: Final = frozenset({"SPOKE_DIR"})


class ConfigError(LocalError):
    """The configuration cannot be used as it is."""

    code = "config"


def _listen(text: str) -> str:
    try:
        parse_listen(text)
    except LocalError as error:
        raise ValueError(error.message) from error
    return text


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NodeSection(_Section):
    """`[node]`: who this spoke is and where it listens."""

    id: InstanceId
    listen: Annotated[str, AfterValidator(_listen)] = DEFAULT_LISTEN
    url: Annotated[str, AfterValidator(check_peer_url)] | None = None
    skew_s: Annotated[int, Field(ge=0, le=600)] = DEFAULT_SKEW_S


class ValkeySection(_Section):
    """`[valkey]`: `embedded`, or the URL of a server; `allow_data_loss` takes one that may lose what it acknowledged."""

    url: str = "embedded"
    allow_data_loss: bool = False


class LimitsSection(_Section):
    """`[limits]`: agents at once, agents queued, size of an agent's log, days that ended agents are kept."""

    agents: Annotated[int, Field(ge=0)] = 4
    queue: Annotated[int, Field(ge=1)] = 10_000
    log_mib: Annotated[int, Field(ge=1)] = 64
    retention_days: Annotated[int, Field(ge=1)] = 30


class Settings(BaseSettings):
    """The whole of `spoke.toml`."""

    model_config = SettingsConfigDict(
        env_prefix="SPOKE_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        nested_model_default_partial_update=True,
    )

    node: NodeSection
    valkey: ValkeySection = ValkeySection()
    limits: LimitsSection = LimitsSection()
    agents: dict[AgentType, AgentConfig] = Field(default_factory=dict)
    policy: Policy = Policy()

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, **sources: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment over file: what a test or a unit file sets wins."""
        return (sources["env_settings"], init_settings)


def _refuse_unknown_variables() -> None:
    sections = {name.upper() for name in Settings.model_fields}
    for name in os.environ:
        if name.startswith("SPOKE_") and name not in _OWN_VARIABLES and name[6:].split("__")[0] not in sections:
            raise ConfigError(f"the variable {name} is no setting; known are SPOKE_DIR and SPOKE_SECTION__NAME")


def load(directory: Path) -> Settings:
    """Read the settings of a spoke's directory; raises `ConfigError` naming the wrong field."""
    path = directory / CONFIG_NAME
    if not path.is_file():
        raise ConfigError(f"{path} is not there; run: spoke --dir {directory} init ID")
    _refuse_unknown_variables()
    try:
        from_file = TomlConfigSettingsSource(Settings, path)()
        return Settings(**from_file)
    except ValidationError as error:
        raise ConfigError(f"{path}: {first_problem(error)}") from error
    except (ValueError, OSError) as error:
        raise ConfigError(f"{path}: {error}") from error
