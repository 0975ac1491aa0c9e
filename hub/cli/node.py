"""`hub init`, `hub serve`, `hub ready`."""

from __future__ import annotations

import asyncio
from typing import Any

import click

from common.command_line import print_facts, print_json
from hub.cli.frame import node_options
from hub.cli.output import invocation


@click.command()
@click.argument("instance", metavar="ID")
@click.option("--listen", metavar="HOST:PORT", default="127.0.0.1:8700", show_default=True, help="Where to listen.")
@click.option("--url", metavar="URL", help="How spokes reach this hub; default: http:// and the address above.")
@node_options
def init(instance: str, listen: str, url: str | None) -> None:
    """Set up a hub named ID: configuration, key, admin token."""
    from hub.cli.local import directory
    from hub.setup import set_up

    place = directory()
    key = set_up(place, instance, listen, url)
    if invocation().as_json:
        print_json({"id": instance, "fingerprint": key.fingerprint, "dir": str(place.path)})
        return
    facts = {"hub": instance, "fingerprint": key.fingerprint, "directory": str(place.path)}
    print_facts(facts)
    click.echo("\nNext: hub serve, and hub invite for the first spoke.")


@click.command()
@node_options
def serve() -> None:
    """Run the hub until SIGTERM; prints one line when it is ready. SIGHUP reads hub.toml again."""
    from common.init_process import split_off_init

    split_off_init()
    from common.node_log import NodeLog
    from hub.app import serve as run_hub
    from hub.cli.local import load_hub

    as_json = invocation().as_json

    def ready(url: str) -> None:
        if as_json:
            print_json({"event": "ready", "url": url})
        else:
            click.echo(f"ready {url}")

    hub, log = load_hub(), NodeLog()
    log.follow(hub.directory.path, hub.settings)
    asyncio.run(run_hub(hub, ready, log))


@click.command()
@node_options
def ready() -> None:
    """Say whether the running hub is ready for work: exit 0, or 1 and why; 3 when none runs."""
    from hub.cli.local import ask, client

    async def look() -> dict[str, Any]:
        async with client() as hub:
            return await hub.ready()

    said = ask(look())
    if invocation().as_json:
        print_json(said)
    else:
        click.echo("ready")
