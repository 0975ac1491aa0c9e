"""Configuration of a node: a TOML file in its directory, overridden by environment variables, strict in both.

Refuses what would pass unnoticed: a missing file, an unknown member, an unknown variable with the node's prefix, so
that a rule an operator believes in is a rule in force. Variables are `PREFIX_SECTION__NAME`.
"""

from __future__ import annotations

import json
import os
import ssl
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from common.audit_directory import AuditDirectory
from common.audit_file import AuditBounds
from common.connection import DEFAULT_SKEW_S
from common.errors import HubspokeError, LocalError
from common.listen_address import parse_listen
from common.node_log import Level
from common.own_keys import KeyFiles
from common.peer_url import check_peer_url
from common.rotation import DEFAULT_OVERLAP_H
from common.tls import Pair, Reach
from common.wire import InstanceId, first_problem

EMBEDDED: Final = "embedded"


class ConfigError(LocalError):
    """The configuration cannot be used; the message names the file or the variable."""

    code = "config"


def _checked_by(check: Any) -> AfterValidator:
    def validate(text: str) -> str:
        try:
            check(text)
        except HubspokeError as error:
            raise ValueError(error.message) from error
        return text

    return AfterValidator(validate)


Listen = Annotated[str, _checked_by(parse_listen)]
PeerUrl = Annotated[str, _checked_by(check_peer_url)]


class Section(BaseModel):
    """A table of the file; unknown members are an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class NodeSection(Section):
    """`[node]`: who this node is, where it listens, how peers reach it, how far clocks may be apart.

    `overlap_h` hours after a rotation the former key, a peer's or our own, signs no more. `insecure_plain_http` lets
    requests without TLS leave this machine, or come from others.
    """

    id: InstanceId
    listen: Listen
    url: PeerUrl | None = None
    skew_s: Annotated[int, Field(ge=0, le=600)] = DEFAULT_SKEW_S
    overlap_h: Annotated[int, Field(ge=1, le=720)] = DEFAULT_OVERLAP_H
    insecure_plain_http: bool = False

    @property
    def overlap_s(self) -> int:
        """The overlap in seconds."""
        return self.overlap_h * 3600


class ValkeySection(Section):
    """`[valkey]`: `embedded`, or a server's URL; `allow_data_loss` takes one that may lose what it acknowledged."""

    # It may hold a password.
    url: Annotated[str, Field(repr=False)] = EMBEDDED
    allow_data_loss: bool = False


class TlsSection(Section):
    """`[tls]`: PEM files; `certificate` and `key` are shown to those who dial in, `ca` is believed when dialing out.

    Paths are absolute or start at the node's directory.
    """

    certificate: Path | None = None
    key: Path | None = None
    ca: Path | None = None

    @model_validator(mode="after")
    def _both_or_none(self) -> TlsSection:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together")
        return self

    def pair(self, directory: Path) -> Pair | None:
        """Return what a listener shows, None for plain HTTP."""
        if self.certificate is None or self.key is None:
            return None
        return Pair(directory / self.certificate, directory / self.key)

    def of_oneself(self, directory: Path) -> ssl.SSLContext | None:
        """Return what believes the listener's own certificate, None for plain HTTP; raises `TlsError`."""
        pair = self.pair(directory)
        return None if pair is None else pair.pinned()

    def reach(self, directory: Path, *, plain_http: bool) -> Reach:
        """Return how this node dials."""
        return Reach(None if self.ca is None else directory / self.ca, plain_http)


class AuditSection(Section):
    """`[audit]`: a checkpoint every so many lines or seconds; the size of a file and how many full ones are kept.

    `files = 0` keeps all.
    """

    checkpoint_lines: Annotated[int, Field(ge=1)] = 1000
    checkpoint_s: Annotated[int, Field(ge=1)] = 60
    file_mib: Annotated[int, Field(ge=1)] = 64
    files: Annotated[int, Field(ge=0)] = 16

    @property
    def bounds(self) -> AuditBounds:
        """The same for the audit."""
        return AuditBounds(self.checkpoint_lines, self.checkpoint_s, self.file_mib * 1024 * 1024, self.files)


class LogSection(Section):
    """`[log]`: what is logged, and where: to stderr unless a file is named. It starts at the node's directory."""

    level: Level = "info"
    file: Path | None = None

    def path(self, directory: Path) -> Path | None:
        """Return the file, None for stderr."""
        return None if self.file is None else directory / self.file


LOG_AND_AUDIT: Final = frozenset(
    {"audit.checkpoint_lines", "audit.checkpoint_s", "audit.file_mib", "audit.files", "log.file", "log.level"}
)
"""Settings of every node that a reload changes."""


@dataclass(frozen=True, slots=True)
class NodeDirectory:
    """The directory of one node and the files in it."""

    path: Path

    @property
    def trust_file(self) -> Path:
        """Peers and invites."""
        return self.path / "trust.db"

    @property
    def audit(self) -> AuditDirectory:
        """What was decided."""
        return AuditDirectory(self.path)

    @property
    def valkey(self) -> Path:
        """Where the embedded Valkey lives."""
        return self.path / "valkey"

    def key_file(self, instance: str) -> Path:
        """The private key."""
        return self.path / "keys" / f"{instance}.key"

    def key_files(self, instance: str) -> KeyFiles:
        """The private key with what a rotation puts beside it."""
        return KeyFiles(self.path / "keys", instance)

    def valkey_target(self, section: ValkeySection) -> str | Path:
        """Return what `common.valkey.connect` takes: the embedded server's directory, or the URL."""
        return self.valkey if section.url == EMBEDDED else section.url


def default_directory(kind: str, environment: Mapping[str, str] = os.environ) -> Path:
    """Return where a node of that kind lives when nobody says otherwise."""
    if directory := environment.get(f"{kind.upper()}_DIR"):
        return Path(directory)
    state = environment.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "hubspoke" / kind


class NodeSettings(BaseSettings):
    """Base of a node's settings: environment before file, nothing unknown."""

    model_config = SettingsConfigDict(env_nested_delimiter="__", extra="forbid", frozen=True, hide_input_in_errors=True)

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


SomeSettings = TypeVar("SomeSettings", bound=NodeSettings)


def _check_environment(prefix: str, sections: frozenset[str], environment: Mapping[str, str]) -> None:
    for name in sorted(environment):
        # pydantic takes them in any case.
        section = name.upper().removeprefix(prefix).partition("__")[0].lower()
        if name.upper().startswith(prefix) and name != f"{prefix}DIR" and section not in sections:
            known = ", ".join(sorted(f"{prefix}{known.upper()}__…" for known in sections))
            raise ConfigError(f"the variable {name} is no setting; known are {prefix}DIR, {known}")


def load_settings(model: type[SomeSettings], path: Path, command: str) -> SomeSettings:
    """Read `path` and the `COMMAND_…` variables as `model`; raises `ConfigError` naming the wrong member."""
    if not path.is_file():
        raise ConfigError(f"there is no {path}; run {command} init first, or name the directory with --dir")
    prefix = f"{command.upper()}_"
    _check_environment(prefix, frozenset(model.model_fields), os.environ)
    place = SettingsConfigDict(toml_file=path, env_prefix=prefix)
    located: type[SomeSettings] = type(model.__name__, (model,), {"model_config": place})
    try:
        return located()
    except ValidationError as error:
        raise ConfigError(f"{path}, or {prefix}… in the environment: {first_problem(error)}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error


def make_directory(path: Path) -> None:
    """Make a node's directory, which only its user can enter; one that is there stays as it is.

    Raises `ConfigError`.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make {path}: {error.strerror}; name another directory with --dir") from error


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def write_settings(path: Path, node: Mapping[str, str | None], further: str) -> None:
    """Write a fresh file: a `[node]` table and the text of further tables; raises `ConfigError` when there is one.

    Only its owner can read it: `[valkey] url` may hold a password.
    """
    # A JSON string is a TOML string.
    lines = [f"{name} = {json.dumps(value)}" for name, value in node.items() if value is not None]
    try:
        with open(path, "x", encoding="utf-8", opener=_private) as file:
            file.write("\n".join(["[node]", *lines, "", further]))
    except FileExistsError as error:
        raise ConfigError(f"{path} exists already; this node was set up before") from error
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error
