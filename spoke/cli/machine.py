"""`spoke machine`: other machines that work for a spoke.

At the node: `key`, `add`, `list`, `forget`; on the other machine: `init`, `work`.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import click

from common.command_line import relative_time
from common.errors import LocalError
from common.ids import is_instance_id
from spoke.cli.context import SpokeContext, facts

if TYPE_CHECKING:
    from spoke.machines.registry import Machine


@click.group()
def machine() -> None:
    """Other machines that start agents of this spoke."""


def _check_name(name: str) -> None:
    if not is_instance_id(name):
        raise LocalError("a machine's name is made of a-z, 0-9, '.' and '-', like an id", code="id")


def _shown(found: Machine) -> dict[str, Any]:
    from common.ids import rfc3339
    from spoke.machines.registry import write_key

    return {"name": found.name, "id": found.id, "key": write_key(found.key), "since": rfc3339(found.added_s * 1000)}


@machine.command("key")
@facts
def show_key(context: SpokeContext) -> None:
    """At the node: print the key by which its machines know it."""
    from spoke.machines.registry import own_key, write_key

    settings = context.settings()
    context.out.facts({"id": settings.node.id, "key": write_key(own_key(context.directory.path).public)})


@machine.command("add")
@click.argument("name")
@click.argument("key", metavar="KEY")
@facts
def add_machine(context: SpokeContext, name: str, key: str) -> None:
    """At the node: let the machine NAME with the KEY that its `machine init` printed start agents of this spoke."""
    from spoke.machines.registry import Machines, own_key, read_key

    _check_name(name)
    given = read_key(key)
    own_key(context.directory.path)
    with context.trust(context.settings()) as trust:
        context.out.facts(_shown(Machines(trust).add(name, given, int(time.time()))))


@machine.command("list")
@facts
def list_machines(context: SpokeContext) -> None:
    """At the node: list the machines, and whether each has a link now (`?` while the node does not run)."""
    from common.command_line import Unreachable
    from spoke.machines.registry import Machines

    with context.trust(context.settings()) as trust:
        rows = [_shown(each) for each in Machines(trust).all()]
    try:
        linked: dict[str, bool] = context.call("GET", "/machines")["linked"]
    except Unreachable:
        linked = {}
    for row in rows:
        row["linked"] = linked.get(row["id"])
    context.out.table(
        rows,
        {
            "NAME": lambda row: row["name"],
            "LINKED": lambda row: {True: "yes", False: "no", None: "?"}[row["linked"]],
            "SINCE": lambda row: relative_time(_epoch_s(row["since"]), time.time()),
            "KEY": lambda row: row["key"],
        },
    )


def _epoch_s(text: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(text).timestamp()


@machine.command("forget")
@click.argument("name")
@facts
def forget_machine(context: SpokeContext, name: str) -> None:
    """At the node: let a machine start nothing any more. What it has fails as `lost`.

    It ends what it still runs as soon as it comes back.
    """
    from spoke.machines.registry import Machines

    with context.trust(context.settings()) as trust:
        context.out.facts(_shown(Machines(trust).forget(name)))


@machine.command("init")
@click.argument("name")
@click.option("--spoke", "spoke_id", required=True, metavar="ID", help="The spoke it works for.")
@click.option("--url", required=True, help="Where that spoke's node is reached from here.")
@click.option("--key", required=True, help="What `spoke machine key` printed at the node.")
@facts
def init_machine(context: SpokeContext, name: str, spoke_id: str, url: str, key: str) -> None:
    """On the other machine: set up its directory. Prints the key for `spoke machine add` at the node.

    Then set [valkey] url in its spoke.toml to the spoke's Valkey.
    """
    from common.peer_url import check_peer_url
    from spoke.machines.registry import read_key, write_key
    from spoke.machines.setup import set_up_machine

    for each in (name, spoke_id):
        _check_name(each)
    own = set_up_machine(context.directory, name, spoke_id, check_peer_url(url), read_key(key))
    context.out.facts({"name": name, "key": write_key(own), "directory": str(context.directory.path)})


@machine.command("work")
@facts
def work_machine(context: SpokeContext) -> None:
    """On the other machine: start and watch agents of the spoke until SIGTERM. Prints one line, `ready NAME`."""
    from common.init_process import split_off_init

    split_off_init()
    from common.node_log import NodeLog
    from spoke.machines.process import work
    from spoke.node import Spoke

    node, log = Spoke.load(context.directory, context.settings()), NodeLog()
    log.follow(node.directory.path, node.settings)
    name = node.me.instance

    def ready() -> None:
        click.echo(json.dumps({"event": "ready", "machine": name}) if context.out.json else f"ready {name}")

    asyncio.run(work(node, ready, log))
