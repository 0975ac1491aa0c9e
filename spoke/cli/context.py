"""What every command of `spoke` starts from: the directory, its settings, its trust store, the running node."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import click

from common.audit_file import acting
from common.command_line import Output, Unreachable
from common.configuration import default_directory
from common.directory import announced_url
from common.interruptible import run_async
from common.keyfiles import load_token
from common.logs import configure_quietly
from common.trust_store import TrustStore
from spoke.client import TIMEOUT_S, LocalClient
from spoke.settings import ConfigError, SpokeDirectory, SpokeSettings, load


class SpokeContext:
    """The spoke that a command is about."""

    def __init__(self, directory: Path | None, output: Output) -> None:
        self.directory = SpokeDirectory((directory or default_directory("spoke")).absolute())
        self.out = output

    def settings(self) -> SpokeSettings:
        """Read the configuration; raises `ConfigError`."""
        return load(self.directory)

    def settings_of_node(self) -> SpokeSettings:
        """Read those of a node; raises `ConfigError`, also in the directory of another machine."""
        settings = self.settings()
        if settings.machine is not None:
            raise ConfigError(
                f"{self.directory.path} is a machine's of {settings.machine.spoke}; run: spoke machine work"
            )
        return settings

    @contextmanager
    def trust(self, settings: SpokeSettings) -> Iterator[TrustStore]:
        """Open the trust store, with the node running or not."""
        from spoke.app import Spoke

        configure_quietly()
        spoke = Spoke.load(self.directory, settings)
        # Every change is audited, under the name of whoever runs the command.
        with (
            closing(spoke.open_audit()) as audit,
            closing(spoke.open_trust(audit)) as store,
            acting(f"cli:{os.getuid()}"),
        ):
            yield store

    def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        timeout_s: float = TIMEOUT_S,
    ) -> dict[str, Any]:
        """Ask the running node; raises `Unreachable`, `Refused`."""
        settings = self.settings()
        tls = settings.tls.of_oneself(self.directory.path)
        url = announced_url(self.directory.path)
        if url is None:  # the configured port may be anybody's now, who would get the token
            raise Unreachable(f"no spoke runs on {self.directory.path}; start it with: spoke serve")
        client = LocalClient(url, load_token(self.directory.token_file), tls)
        return run_async(client.call(method, path, query=query, body=body, timeout_s=timeout_s))


def current(*, as_json: bool = False) -> SpokeContext:
    """Return the spoke that the command line names."""
    shared = click.get_current_context().find_root().obj
    return SpokeContext(shared["directory"], Output(json=as_json or shared["json"]))


def facts(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command its `SpokeContext` and a `--json` of its own, so that the option may stand at the end too."""

    @click.option("--json", "as_json", is_flag=True, help="Print facts as JSON.")
    def with_context(as_json: bool, **arguments: Any) -> None:
        command(current(as_json=as_json), **arguments)

    with_context.__doc__ = command.__doc__
    with_context.__name__ = command.__name__  # the command's name, where it is given none
    inherited = getattr(command, "__click_params__", [])
    with_context.__click_params__ += inherited  # type: ignore[attr-defined]  # where click keeps them
    return with_context
