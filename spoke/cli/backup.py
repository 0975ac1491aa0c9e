"""`spoke backup`, `spoke restore`: who a spoke is and whom it trusts as one file, and a spoke again of that file.

Agents are not in it, neither those that wait nor those that run: from a queue of yesterday they would be started again.
What waited its hubs send again; docs/operations.md says what is lost.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from spoke.cli.context import SpokeContext, facts

if TYPE_CHECKING:
    from common.backup import BackedUp
    from common.backup_archive import Manifest
    from spoke.node import Spoke


@click.command()
@click.argument("file", metavar="FILE|-")
@facts
def backup(context: SpokeContext, file: str) -> None:
    """Write keys, hubs, configuration and audit to a new FILE or a pipe, with the spoke running or not.

    Whoever has it is this spoke: keep it as secret as the key. Agents are not in it.
    """
    from common.audit_file import acting
    from common.backup import write_backup
    from common.backup_command import back_up
    from common.interruptible import run_async
    from common.logs import configure_quietly
    from spoke.node import Spoke

    configure_quietly()
    spoke = Spoke.load(context.directory, context.settings())

    async def write(target: BinaryIO) -> Manifest:
        actor = acting(f"cli:{os.getuid()}")
        with closing(spoke.open_audit()) as audit, closing(spoke.open_trust(audit)) as trust, actor:
            return await write_backup(_backed_up(spoke), audit, trust, target)

    run_async(back_up(file, write, context.out))


def _backed_up(spoke: Spoke) -> BackedUp:
    from common.backup import BackedUp, tls_files
    from spoke.machines.registry import KEY_FILE

    place = spoke.directory
    return BackedUp(
        kind="spoke",
        node=spoke.me.instance,
        directory=place,
        keys=spoke.key_files,
        private=[place.token_file, place.path / KEY_FILE],
        further=[
            place.settings_file,
            *sorted((place.path / "profiles").glob("*.toml")),
            *tls_files(place.path, spoke.settings.tls),
        ],
        embedded=False,
    )


@click.command()
@click.argument("file", metavar="FILE|-")
@click.option("--check", is_flag=True, help="Only say whether the backup is whole, and of what.")
@click.option("--distrust", is_flag=True, help="Every hub suspended, a new local token: after a break-in.")
@facts
def restore(context: SpokeContext, file: str, check: bool, distrust: bool) -> None:
    """Make a spoke of a backup, in an empty or new --dir. Starts nothing."""
    from common.backup_command import Restoring, bring_back
    from common.logs import configure_quietly

    def revive(staging: Path, manifest: Manifest) -> Mapping[str, Sequence[str]]:
        return _revive(staging, manifest, distrust=distrust)

    configure_quietly()
    bring_back(file, Restoring("spoke", context.directory.path, check, revive), context.out)


def _revive(staging: Path, manifest: Manifest, *, distrust: bool) -> Mapping[str, Sequence[str]]:
    from common.audit_file import acting
    from common.backup_command import renew_token, settle
    from spoke.node import Spoke
    from spoke.settings import SpokeDirectory, load

    place = SpokeDirectory(staging)
    spoke = Spoke.load(place, load(place))
    with acting(f"cli:{os.getuid()}"), closing(spoke.open_audit()) as audit, closing(spoke.open_trust(audit)) as trust:
        hubs = settle(trust, spoke.key_files, audit, manifest, distrust=distrust)
    if distrust:
        renew_token(place.token_file)
    return {"hubs": hubs}
