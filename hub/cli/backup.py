"""`hub backup`, `hub restore`: a hub as one file, while it runs or not, and a hub again of that file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from hub.cli.frame import node_options
from hub.cli.output import invocation

if TYPE_CHECKING:
    from common.backup import BackedUp
    from common.backup_archive import Manifest
    from hub.node import Hub


@click.command()
@click.argument("file", metavar="FILE|-")
@node_options
def backup(file: str) -> None:
    """Write keys, spokes, tokens, audit and Valkey to a new FILE or a pipe, with the hub running or not.

    Whoever has it is this hub: keep it as secret as the key.
    """
    from common.audit_file import acting
    from common.backup import write_backup
    from common.backup_command import back_up
    from common.command_line import Output
    from common.logs import configure_quietly
    from hub.cli.local import ask, load_hub

    configure_quietly()
    hub = load_hub()

    async def write(target: BinaryIO) -> Manifest:
        with closing(hub.open_audit()) as audit, closing(hub.open_trust(audit)) as trust, acting(f"cli:{os.getuid()}"):
            return await write_backup(_backed_up(hub), audit, trust, target)

    ask(back_up(file, write, Output(json=invocation().as_json)))


def _backed_up(hub: Hub) -> BackedUp:
    from common.backup import BackedUp, tls_files
    from common.configuration import EMBEDDED

    place = hub.directory
    return BackedUp(
        kind="hub",
        node=hub.me.instance,
        directory=place,
        keys=hub.key_files,
        private=[place.token_file, place.webhook_key],
        further=[place.settings_file, *tls_files(place.path, hub.settings.tls)],
        embedded=hub.settings.valkey.url == EMBEDDED,
    )


@click.command()
@click.argument("file", metavar="FILE|-")
@click.option("--check", is_flag=True, help="Only say whether the backup is whole, and of what.")
@click.option(
    "--distrust", is_flag=True, help="Every spoke suspended, all tokens void, a new admin token: after a break-in."
)
@node_options
def restore(file: str, check: bool, distrust: bool) -> None:
    """Make a hub of a backup, in an empty or new --dir. Starts nothing."""
    from common.backup_command import Restoring, bring_back
    from common.command_line import Output
    from common.logs import configure_quietly
    from hub.cli.local import directory

    def revive(staging: Path, manifest: Manifest) -> Mapping[str, Sequence[str]]:
        return _revive(staging, manifest, distrust=distrust)

    configure_quietly()
    wanted = Restoring("hub", directory().path, check, revive)
    bring_back(file, wanted, Output(json=invocation().as_json))


def _revive(staging: Path, manifest: Manifest, *, distrust: bool) -> Mapping[str, Sequence[str]]:
    from common.audit_file import acting
    from common.backup_command import renew_token, settle
    from hub.node import Hub, open_stores
    from hub.settings import HubDirectory, load

    place = HubDirectory(staging)
    hub = Hub.load(place, load(place))
    with acting(f"cli:{os.getuid()}"), open_stores(hub) as stores:
        spokes = settle(stores.trust, hub.key_files, stores.audit, manifest, distrust=distrust)
        if distrust:
            for token in stores.tokens.list():
                stores.tokens.revoke(token.name)
            renew_token(place.token_file)
        return {"spokes": spokes, "tokens": [token.name for token in stores.tokens.list()]}
