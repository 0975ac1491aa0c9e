"""`hub keys`: this hub's own key, shown and rotated, with the node running or not."""

from __future__ import annotations

import json
from typing import Any

import click

from common.command_line import print_facts, print_json, print_table
from hub.cli.frame import node_options
from hub.cli.output import invocation, show_text, show_time


@click.group()
def keys() -> None:
    """This hub's own key."""


def _print(report: dict[str, Any]) -> None:
    if invocation().as_json:
        print_json(report)
        return
    rotation = report["rotation"]
    facts = {"hub": report["id"], "fingerprint": report["fingerprint"], "x": report["jwk"]["x"]}
    if rotation is not None:
        facts["rotated"] = show_time(rotation["startedAt"])
        facts["former"] = f"{rotation['former']}, ends {show_time(rotation['formerRetiresAt'])}"
    print_facts(facts)
    if rotation is not None and report["peers"]:
        print_table(
            ["SPOKE", "STATE", "KNOWS THIS KEY", "PROBLEM"],
            [
                [each["id"], each["state"], "yes" if each["acknowledged"] else "not yet", show_text(each["problem"])]
                for each in report["peers"]
            ],
        )


@keys.command()
@node_options
def show() -> None:
    """Show the fingerprint that spokes' operators compare, the public key, and who knows it after a rotation."""
    from common.key_report import report_keys
    from common.own_keys import OwnKeys
    from hub.cli.local import load_hub, open_trust

    hub = load_hub()
    with open_trust(hub) as trust:
        _print(report_keys(hub.me.instance, OwnKeys(hub.key_files, trust), trust.current()))


@keys.command()
@node_options
def export() -> None:
    """Print the public key alone, a JWK, as `spoke peer add HUB --key FILE` takes it."""
    from common.own_keys import OwnKeys
    from hub.cli.local import load_hub, open_trust

    hub = load_hub()
    with open_trust(hub) as trust:
        click.echo(json.dumps(OwnKeys(hub.key_files, trust).current.public.to_jwk()))


@keys.command("rotate")
@node_options
def rotate_key() -> None:
    """Make a new key, at once; spokes are told under the former one as long as they have not acknowledged it."""
    from common.clock import SystemClock
    from common.key_report import report_keys
    from common.own_keys import OwnKeys, rotate
    from common.rotation_store import RotationStore
    from hub.cli.local import load_hub, open_trust

    hub = load_hub()
    now_s = SystemClock().now_ms() // 1000
    with open_trust(hub) as trust:
        own = OwnKeys(hub.key_files, trust)
        rotate(hub.key_files, RotationStore(trust), own, now_s, hub.settings.node.overlap_s)
        _print(report_keys(hub.me.instance, own, trust.current()))
