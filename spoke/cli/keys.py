"""`spoke keys`: this spoke's own key, shown and rotated, with the node running or not."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import click

from spoke.cli.context import SpokeContext, facts

if TYPE_CHECKING:
    from common.own_keys import OwnKeys
    from common.trust_store import TrustStore


@click.group()
def keys() -> None:
    """This spoke's own key."""


def _print(context: SpokeContext, instance: str, own: OwnKeys, trust: TrustStore) -> None:
    from common.key_report import report_keys

    report: dict[str, Any] = report_keys(instance, own, trust.current())
    report["file"] = str(context.directory.key_file(instance))
    if context.out.json:
        context.out.facts(report)
        return
    peers = report.pop("peers")
    rotation = report.pop("rotation") or {}
    report["jwk"] = json.dumps(report["jwk"])
    context.out.facts({**report, "former": rotation.get("former"), "former until": rotation.get("formerRetiresAt")})
    if rotation and peers:
        context.out.table(
            peers,
            {
                "HUB": lambda row: row["id"],
                "STATE": lambda row: row["state"],
                "KNOWS THIS KEY": lambda row: "yes" if row["acknowledged"] else "not yet",
                "PROBLEM": lambda row: row["problem"],
            },
        )


@keys.command("show")
@facts
def show_keys(context: SpokeContext) -> None:
    """Print the fingerprint that the other side compares, the public key, and who knows it after a rotation."""
    from common.own_keys import OwnKeys

    settings = context.settings()
    with context.trust(settings) as trust:
        own = OwnKeys(context.directory.key_files(settings.node.id), trust)
        _print(context, settings.node.id, own, trust)


@keys.command("export")
@facts
def export_key(context: SpokeContext) -> None:
    """Print the public key alone, a JWK, as `hub peer add SPOKE --key FILE` takes it."""
    from common.own_keys import OwnKeys

    settings = context.settings()
    with context.trust(settings) as trust:
        own = OwnKeys(context.directory.key_files(settings.node.id), trust)
        click.echo(json.dumps(own.current.public.to_jwk()))


@keys.command("rotate")
@facts
def rotate_key(context: SpokeContext) -> None:
    """Make a new key, at once; hubs are told under the former one as long as they have not acknowledged it."""
    from common.own_keys import OwnKeys, rotate
    from common.rotation_store import RotationStore

    settings = context.settings()
    files = context.directory.key_files(settings.node.id)
    with context.trust(settings) as trust:
        own = OwnKeys(files, trust)
        rotate(files, RotationStore(trust), own, int(time.time()), settings.node.overlap_s)
        _print(context, settings.node.id, own, trust)
