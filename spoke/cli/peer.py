"""`spoke join` and `spoke peer`: which hubs this machine is lent to. Works with the node running or not."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from common.command_line import relative_time
from spoke.cli.context import SpokeContext, facts

if TYPE_CHECKING:
    from common.invites import Invite
    from common.peers import Peer
    from common.trust_store import TrustStore
    from spoke.settings import SpokeSettings


def shown(peer: Peer) -> dict[str, Any]:
    """Return a peer as facts."""
    return {
        "id": peer.instance,
        "kind": peer.kind,
        "state": peer.state,
        "fingerprint": peer.current_key.fingerprint,
        "url": peer.url,
        "since": peer.created_s,
        "policy": "its own" if peer.policy is not None else "the general one",
    }


async def _join(context: SpokeContext, settings: SpokeSettings, trust: TrustStore, invite: Invite) -> Peer:
    from common.clock import SystemClock
    from common.connection import Node
    from common.keyfiles import load_signing_key
    from common.post import open_session
    from spoke.joining import Joiner

    key = load_signing_key(context.directory.key_file(settings.node.id))
    me = Node(settings.node.id, "spoke", settings.node.skew_s)
    async with open_session() as session:
        return await Joiner(me, key, settings.node.url, SystemClock()).join(session, trust, invite)


@click.command()
@click.argument("invite")
@facts
def join(context: SpokeContext, invite: str) -> None:
    """Join a hub by the INVITE string that its admin made (`-` reads it from stdin)."""
    from common.invites import parse_invite

    text = sys.stdin.readline() if invite == "-" else invite
    settings = context.settings()
    with context.trust(settings) as trust:
        peer = asyncio.run(_join(context, settings, trust, parse_invite(text)))
    context.out.facts(shown(peer))


@click.group()
def peer() -> None:
    """The hubs this machine is lent to."""


@peer.command("list")
@facts
def list_peers(context: SpokeContext) -> None:
    """List all hubs with state and fingerprint."""
    with context.trust(context.settings()) as trust:
        rows = [shown(each) for each in trust.current().peers()]
    now_s = time.time()
    context.out.table(
        rows,
        {
            "ID": lambda row: row["id"],
            "STATE": lambda row: row["state"],
            "SINCE": lambda row: relative_time(row["since"], now_s),
            "URL": lambda row: row["url"],
            "FINGERPRINT": lambda row: row["fingerprint"],
        },
    )


@peer.command("show")
@click.argument("instance", metavar="ID")
@facts
def show_peer(context: SpokeContext, instance: str) -> None:
    """Print what is known of one hub."""
    with context.trust(context.settings()) as trust:
        context.out.facts(shown(trust.find(instance)))


@peer.command("policy")
@click.argument("instance", metavar="ID")
@facts
def show_policy(context: SpokeContext, instance: str) -> None:
    """Print the rules for one hub: what they do not allow is refused."""
    from spoke.policy import Policy

    settings = context.settings()
    with context.trust(settings) as trust:
        own = trust.find(instance).policy
    policy = settings.policy if own is None else Policy.model_validate(dict(own))
    context.out.facts(policy.model_dump())


@peer.command("add")
@click.argument("instance", metavar="ID")
@click.option("--key", type=click.Path(path_type=Path), required=True, help="Its public key, PEM or JWK.")
@click.option("--url", help="How this spoke reaches the hub.")
@facts
def add_peer(context: SpokeContext, instance: str, key: Path, url: str | None) -> None:
    """Register a hub as active by a public key that came another way: compare its fingerprint first."""
    from common.errors import LocalError
    from common.ids import is_instance_id
    from common.keyfiles import read_public_key
    from common.peer_url import check_peer_url
    from common.trust_store import NewPeer

    if not is_instance_id(instance):
        raise LocalError("that is no instance id", code="id")
    checked_url = None if url is None else check_peer_url(url)
    new = NewPeer(instance, "hub", read_public_key(key), checked_url, {})
    with context.trust(context.settings()) as trust:
        context.out.facts(shown(trust.add(new, "active", int(time.time()))))


def _set_state(context: SpokeContext, instance: str, state: str) -> None:
    from common.peers import ConnectionState

    (checked,) = (known for known in get_args(ConnectionState) if known == state)
    with context.trust(context.settings()) as trust:
        context.out.facts(shown(trust.set_state(instance, checked)))


@peer.command()
@click.argument("instance", metavar="ID")
@facts
def suspend(context: SpokeContext, instance: str) -> None:
    """Take nothing from a hub and start none of its agents, until `resume`."""
    _set_state(context, instance, "suspended")


@peer.command()
@click.argument("instance", metavar="ID")
@facts
def resume(context: SpokeContext, instance: str) -> None:
    """Take a suspended hub's commands again."""
    _set_state(context, instance, "active")


@peer.command()
@click.argument("instance", metavar="ID")
@facts
def revoke(context: SpokeContext, instance: str) -> None:
    """End the connection for good; the same hub can only join anew and inherits nothing."""
    _set_state(context, instance, "revoked")
