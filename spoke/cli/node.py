"""`spoke init`, `serve`, `worker`, `ready` and `completion`."""

from __future__ import annotations

import asyncio
import json
from typing import Final

import click

from common.command_line import SHELLS, completion_script
from common.errors import LocalError
from common.ids import is_instance_id
from spoke.cli.context import SpokeContext, facts

_DEFAULT_LISTEN: Final = "127.0.0.1:8701"


@click.command()
@click.argument("instance", metavar="ID")
@click.option("--listen", default=_DEFAULT_LISTEN, show_default=True, metavar="HOST:PORT", help="Where to listen.")
@click.option("--url", help="How hubs reach this spoke; leave it out behind NAT.")
@facts
def init(context: SpokeContext, instance: str, listen: str, url: str | None) -> None:
    """Set up a spoke in DIR: configuration, key, token. Prints the fingerprint."""
    from common.listen_address import parse_listen
    from common.peer_url import check_peer_url
    from spoke.setup import set_up

    if not is_instance_id(instance):
        raise LocalError(
            "an id has 1 to 63 of a-z, 0-9, '.' and '-', and begins and ends with one of a-z, 0-9", code="id"
        )
    parse_listen(listen)
    checked_url = None if url is None else check_peer_url(url)
    directory = context.directory
    key = set_up(directory, instance, listen, checked_url)
    context.out.facts(
        {"id": instance, "fingerprint": key.fingerprint, "directory": str(directory.path), "listen": listen}
    )


@click.command()
@click.option("--no-worker", is_flag=True, help="Start no agents here: leave all of them to `spoke worker`.")
@facts
def serve(context: SpokeContext, no_worker: bool) -> None:
    """Run the spoke until SIGTERM. Prints one line, `ready URL`, when it takes envelopes.

    SIGHUP reads spoke.toml again.
    """
    from common.init_process import split_off_init

    split_off_init()
    from common.node_log import NodeLog
    from spoke.app import Spoke
    from spoke.app import serve as run

    node, log = Spoke.load(context.directory, context.settings_of_node()), NodeLog()
    log.follow(node.directory.path, node.settings)

    def ready(url: str) -> None:
        click.echo(json.dumps({"event": "ready", "url": url}) if context.out.json else f"ready {url}")

    asyncio.run(run(node, ready, log, works=not no_worker))


@click.command()
@click.argument("name", default="1")
@facts
def worker(context: SpokeContext, name: str) -> None:
    """Start and watch agents of this spoke until SIGTERM, beside `spoke serve` and other workers of other names.

    Prints one line, `ready NAME`. Its agents go on when it ends, and others see them to their end.
    """
    from common.node_log import NodeLog
    from spoke.node import Spoke
    from spoke.worker_process import work

    if not is_instance_id(name):
        raise LocalError("a worker's name is made of a-z, 0-9, '.' and '-', like an id", code="id")
    node, log = Spoke.load(context.directory, context.settings_of_node()), NodeLog()
    log.follow(node.directory.path, node.settings)

    def ready() -> None:
        click.echo(json.dumps({"event": "ready", "worker": name}) if context.out.json else f"ready {name}")

    asyncio.run(work(node, name, ready, log))


@click.command()
@facts
def ready(context: SpokeContext) -> None:
    """Say whether the running spoke is ready for work: exit 0, or 1 and why; 3 when none runs."""
    said = context.call("GET", "/readyz")
    context.out.facts(said)


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print what makes a shell complete commands and options: eval "$(spoke completion bash)"."""
    click.echo(completion_script("spoke", shell))
