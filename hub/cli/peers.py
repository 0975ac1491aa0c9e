"""`hub peer`: on the trust store itself, so also when the node is down."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from common.command_line import print_facts, print_json, print_table
from hub.cli.completion import complete_spokes
from hub.cli.frame import node_options
from hub.cli.output import invocation, show_text, show_time

if TYPE_CHECKING:
    from hub.answers import Peer


@click.group()
def peer() -> None:
    """Spokes: who may connect."""


@peer.command()
@click.argument("instance", metavar="ID", shell_complete=complete_spokes)
@click.option(
    "--key", "key_file", metavar="FILE", required=True, type=click.Path(path_type=Path), help="PEM or JWK; - is stdin."
)
@click.option("--url", metavar="URL", help="How this hub reaches the spoke.")
@node_options
def add(instance: str, key_file: Path, url: str | None) -> None:
    """Register a spoke as active, with a public key that came another way."""
    from common.clock import SystemClock
    from common.configuration import ConfigError
    from common.ids import is_instance_id
    from common.keyfiles import read_public_key
    from common.peer_url import check_peer_url
    from common.trust_store import NewPeer
    from hub.cli.local import load_hub, open_trust

    if not is_instance_id(instance):
        raise ConfigError("an id has 1 to 63 of a-z, 0-9, '.', '-', and begins and ends with a letter or a digit")
    new = NewPeer(instance, "spoke", read_public_key(key_file), url and check_peer_url(url), {})
    with open_trust(load_hub()) as trust:
        added = trust.add(new, "active", SystemClock().now_ms() // 1000)
        if new.url is not None and added.url != new.url:  # it was registered before
            added = trust.set_url(instance, new.url)
    _print_peer(_plain(added))


@peer.command(name="list")
@node_options
def list_peers() -> None:
    """List all spokes; how delivery goes is only known while the node runs."""
    from hub.cli.local import load_hub, open_trust

    with open_trust(load_hub()) as trust:
        views = [_plain(found) for found in trust.current().peers()]
    running = _from_node()
    merged = [running.get(view["id"], view) for view in views]
    if invocation().as_json:
        print_json(merged)
        return
    rows = [
        [
            view["id"],
            view["state"],
            show_frozen(view),
            view["fingerprint"],
            show_text(view["url"]),
            show_time(view["lastContactAt"]),
            str(view["pending"]) if running else "-",
        ]
        for view in merged
    ]
    print_table(["SPOKE", "STATE", "FROZEN", "FINGERPRINT", "URL", "LAST CONTACT", "WAITING"], rows)


@peer.command()
@click.argument("instance", metavar="ID", shell_complete=complete_spokes)
@node_options
def show(instance: str) -> None:
    """Show one spoke: state, fingerprint, last contact, retry state."""
    from hub.cli.local import load_hub, open_trust

    with open_trust(load_hub()) as trust:
        view = _plain(trust.find(instance))
    _print_peer(_from_node().get(instance, view))


@peer.command()
@click.argument("instance", metavar="ID", shell_complete=complete_spokes)
@click.argument("fingerprint", metavar="FINGERPRINT")
@node_options
def approve(instance: str, fingerprint: str) -> None:
    """Let a pending spoke in: FINGERPRINT is what its operator read to you."""
    from hub.cli.local import load_hub, open_trust

    with open_trust(load_hub()) as trust:
        view = _plain(trust.approve(instance, fingerprint))
    _print_peer(view)


@peer.command()
@click.argument("instance", metavar="ID", shell_complete=complete_spokes)
@node_options
def suspend(instance: str) -> None:
    """Stop all traffic with a spoke; what waits for it goes on waiting."""
    _change(instance, "suspended")


@peer.command()
@click.argument("instance", metavar="ID", required=False, shell_complete=complete_spokes)
@click.option("--all", "everyone", is_flag=True, help="Every spoke that is suspended, as after restore --distrust.")
@node_options
def resume(instance: str | None, everyone: bool) -> None:
    """Take up traffic again, and try to deliver at once."""
    from common.errors import HubspokeError
    from hub.cli.local import ask

    if (instance is None) != everyone:
        raise click.UsageError("give the ID of a spoke, or --all")
    views = [_changed(each, "active") for each in (_suspended() if instance is None else [instance])]
    # The node sees the new state by itself; asked, it also ends the backoff of a spoke that was active all along.
    with suppress(HubspokeError):
        ask(_resume_at_node([view["id"] for view in views]))
    if instance is not None:
        _print_peer(views[0])
    elif invocation().as_json:
        print_json(views)
    else:
        print_table(["SPOKE", "STATE"], [[view["id"], view["state"]] for view in views])


def _suspended() -> list[str]:
    from hub.cli.local import load_hub, open_trust

    with open_trust(load_hub()) as trust:
        return [found.instance for found in trust.current().peers() if found.state == "suspended"]


async def _resume_at_node(instances: list[str]) -> None:
    from hub.cli.local import client

    async with client() as hub:
        for instance in instances:
            await hub.change_peer(instance, "resume")


@peer.command()
@click.argument("instance", metavar="ID", shell_complete=complete_spokes)
@node_options
def revoke(instance: str) -> None:
    """End a connection for good; joining again is a new one that inherits nothing."""
    _change(instance, "revoked")


@peer.command("revoke-key")
@click.argument("instance", metavar="ID", shell_complete=complete_spokes)
@click.argument("fingerprint", metavar="FINGERPRINT")
@node_options
def revoke_key(instance: str, fingerprint: str) -> None:
    """Stop believing a former key of a spoke before its overlap is over, such as one that was stolen."""
    from common.rotation_store import RotationStore
    from hub.cli.local import load_hub, open_trust

    with open_trust(load_hub()) as trust:
        view = _plain(RotationStore(trust).revoke_key(instance, fingerprint))
    _print_peer(view)


@peer.command("set-url")
@click.argument("instance", metavar="ID")
@click.argument("url", metavar="URL", required=False)
@click.option("--none", "nowhere", is_flag=True, help="It has no URL: only links that it opens reach it.")
@node_options
def set_url(instance: str, url: str | None, nowhere: bool) -> None:
    """Look for a spoke at another URL; who it is and what it may do stays."""
    from common.peer_url import check_peer_url
    from hub.cli.local import load_hub, open_trust

    if (url is None) != nowhere:
        raise click.UsageError("give a URL, or --none")
    with open_trust(load_hub()) as trust:
        view = _plain(trust.set_url(instance, url and check_peer_url(url)))
    _print_peer(view)


def _change(instance: str, state: Any) -> None:
    _print_peer(_changed(instance, state))


def _changed(instance: str, state: Any) -> Peer:
    from common.peers import PeerRefused
    from hub.cli.local import load_hub, open_trust

    with open_trust(load_hub()) as trust:
        if state == "active" and trust.find(instance).state == "pending":
            raise PeerRefused(f"{instance} is pending: hub peer approve {instance} FINGERPRINT")
        return _plain(trust.set_state(instance, state))


def _plain(found: Any) -> Peer:
    from hub.api.peers import peer_view

    return peer_view(found, None)


def _from_node() -> dict[str, Peer]:
    """Return what the running node says of each spoke; nothing when it is down."""
    from common.errors import HubspokeError
    from hub.cli.local import ask, client

    async def peers() -> list[Peer]:
        async with client() as hub:
            return await hub.peers()

    try:
        return {view["id"]: view for view in ask(peers())}
    except HubspokeError:
        return {}


def _print_peer(view: Peer) -> None:
    if invocation().as_json:
        print_json(view)
        return
    error, link, told = view["lastError"], view["link"], view["told"] or {}
    capacity = told.get("capacity")
    print_facts(
        {
            "spoke": view["id"],
            "state": view["state"],
            "fingerprint": view["fingerprint"],
            "url": show_text(view["url"]),
            "labels": show_text(", ".join(f"{name}={value}" for name, value in view["labels"].items())),
            "since": show_time(view["createdAt"]),
            "last contact": show_time(view["lastContactAt"]),
            "link": "-" if link is None else f"up since {show_time(link['since'])}, from {show_text(link['remote'])}",
            "frozen": show_frozen(view),
            "capacity": "-" if not capacity else _show_capacity(capacity, told["at"]),
            "waiting": str(view["pending"]),
            "last attempt": show_time(view["lastAttemptAt"]),
            "last answer": show_time(view["lastAnswerAt"]),
            "failing": _show_failing(view),
            "next attempt": show_time(view["nextAttemptAt"]),
            "last error": "-" if error is None else show_text(f"{error['code']}: {error['detail']}"),
        }
    )


def _show_failing(view: Peer) -> str:
    return f"{view['failures']} in a row, since {show_time(view['failingSince'])}" if view["failures"] else "-"


def show_frozen(view: Peer) -> str:
    """Return whether a spoke is frozen, and what was asked of it since."""
    if view["frozen"] is None:
        return "-"
    frozen, freeze = "yes" if view["frozen"] else "no", view["freeze"]
    if freeze is None or freeze["state"] == "delivered":
        return frozen
    return f"{frozen}, {freeze['asked']} {freeze['state']}"


def _show_capacity(capacity: dict[str, int], at: str) -> str:
    return "{agents} agents at once, {running} ran and {queued} waited ".format_map(capacity) + show_time(at)
