"""Where a hub lives and how it is set up: `DIR/hub.toml`, overridden by `HUB_SECTION__NAME` in the environment.

Refuses what would pass unnoticed: a missing file, unknown members, unknown `HUB_…` variables.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from common.connection import DEFAULT_SKEW_S
from common.errors import LocalError
from common.http import parse_listen
from common.peer_url import check_peer_url
from common.wire import InstanceId, first_problem

DEFAULT_LISTEN: Final = "127.0.0.1:8700"
EMBEDDED: Final = "embedded"
_PREFIX: Final = "HUB_"
_NO_SETTINGS: Final = frozenset({"HUB_DIR"})


class ConfigError(LocalError):
    """The configuration cannot be used; the message names the file or the variable."""

    code = "config"


@dataclass(frozen=True, slots=True)
class Home:
    """The directory of one hub and the files in it."""

    path: Path

    @property
    def settings_file(self) -> Path:
        """The configuration."""
        return self.path / "hub.toml"

    @property
    def token_file(self) -> Path:
        """The bearer token of the admin API."""
        return self.path / "admin.token"

    @property
    def trust_file(self) -> Path:
        """Peers and invites."""
        return self.path / "trust.db"

    @property
    def valkey_directory(self) -> Path:
        """Where the embedded Valkey lives."""
        return self.path / "valkey"

    @property
    def lock_file(self) -> Path:
        """Held by the one process that serves this directory."""
        return self.path / "serving.lock"

    @property
    def url_file(self) -> Path:
        """Where the running node listens."""
        return self.path / "serving.url"

    def key_file(self, instance: str) -> Path:
        """The private key."""
        return self.path / "keys" / f"{instance}.key"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NodeSettings(_Section):
    """Who this hub is, where it listens, how spokes reach it, and how far clocks may be apart."""

    id: InstanceId
    listen: str = DEFAULT_LISTEN
    url: str | None = None
    skew_s: Annotated[int, Field(ge=0, le=600)] = DEFAULT_SKEW_S


class ValkeySettings(_Section):
    """Which Valkey; `allow_data_loss` lets one pass that does not keep what it acknowledges."""

    url: str = EMBEDDED
    allow_data_loss: bool = False


class OutboxSettings(_Section):
    """How many commands may wait for one spoke."""

    limit: Annotated[int, Field(ge=1)] = 100_000


class Settings(BaseSettings):
    """Everything that can be set."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, env_nested_delimiter="__", extra="forbid", hide_input_in_errors=True
    )

    node: NodeSettings
    valkey: ValkeySettings = ValkeySettings()
    outbox: OutboxSettings = OutboxSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take the environment before the file."""
        return env_settings, TomlConfigSettingsSource(settings_cls)


def default_home(environment: Mapping[str, str] = os.environ) -> Path:
    """Return where a hub lives when nobody says otherwise."""
    if directory := environment.get("HUB_DIR"):
        return Path(directory)
    state = environment.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "hubspoke" / "hub"


def _known_variables() -> frozenset[str]:
    sections: dict[str, type[BaseModel]] = {"node": NodeSettings, "valkey": ValkeySettings, "outbox": OutboxSettings}
    names = {f"{_PREFIX}{section}__{name}" for section, model in sections.items() for name in model.model_fields}
    return frozenset(name.upper() for name in names) | _NO_SETTINGS


def _check_environment(environment: Mapping[str, str]) -> None:
    known = _known_variables()
    unknown = sorted(name for name in environment if name.startswith(_PREFIX) and name not in known)
    if unknown:
        raise ConfigError(f"{unknown[0]} is no setting; known are {', '.join(sorted(known))}")


def load_settings(home: Home) -> Settings:
    """Read the configuration of the hub in `home`; raises `ConfigError`."""
    if not home.settings_file.is_file():
        raise ConfigError(f"there is no {home.settings_file}; run hub init first, or name the directory with --dir")
    _check_environment(os.environ)

    class _InHome(Settings):
        model_config = SettingsConfigDict(toml_file=home.settings_file)

    try:
        settings = _InHome()
    except ValidationError as error:
        raise ConfigError(f"{home.settings_file} or HUB_… in the environment: {first_problem(error)}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{home.settings_file} cannot be read: {error}") from error
    parse_listen(settings.node.listen)
    if settings.node.url is not None:
        check_peer_url(settings.node.url)
    return settings


def write_settings(home: Home, node: Mapping[str, Any]) -> None:
    """Write a fresh `hub.toml`; raises `ConfigError` when there is one."""
    # A JSON string is a TOML string.
    lines = [f"{name} = {json.dumps(value)}" for name, value in node.items() if value is not None]
    text = "\n".join(
        [
            "[node]",
            *lines,
            "",
            "[valkey]",
            'url = "embedded"                    # or redis://…, rediss://…, unix://…',
            "",
            "[outbox]",
            "limit = 100000                      # commands that may wait for one spoke",
            "",
        ]
    )
    try:
        with home.settings_file.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise ConfigError(f"{home.settings_file} exists already; this hub was set up before") from error
    except OSError as error:
        raise ConfigError(f"cannot write {home.settings_file}: {error.strerror}") from error
