"""`spoke join` and `spoke peer`: which hubs this machine is lent to. Works with the node running or not."""

from __future__ import annotations

import asyncio
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, get_args

import click

from common.command_line import relative_time
from common.interruptible import run_async
from spoke.cli.context import SpokeContext, facts
from spoke.cli.policy import policy

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp import ClientSession

    from common.keyring import OwnedKey
    from common.peers import Peer
    from common.trust_store import TrustStore
    from spoke.joining import Joiner
    from spoke.settings import SpokeSettings

    _How = Callable[[Joiner, ClientSession, TrustStore], Awaitable[Peer]]

_ASK_AGAIN_S: Final = 2.0


def _retiring(owned: OwnedKey) -> dict[str, Any]:
    from common.ids import rfc3339

    return {"fingerprint": owned.key.fingerprint, "until": rfc3339((owned.retires_at or 0) * 1000)}


def shown(peer: Peer) -> dict[str, Any]:
    """Return a peer as facts."""
    from common.ids import rfc3339

    return {
        "id": peer.instance,
        "kind": peer.kind,
        "state": peer.state,
        "fingerprint": peer.current_key.fingerprint,
        "url": peer.url,
        "since": rfc3339(peer.created_s * 1000),
        "former": [_retiring(owned) for owned in peer.keys[1:]] or None,
        "policy": "its own" if peer.policy is not None else "the general one",
    }


async def _join(context: SpokeContext, settings: SpokeSettings, trust: TrustStore, how: _How) -> Peer:
    from common.clock import SystemClock
    from common.connection import Node
    from common.own_keys import OwnKeys
    from common.post import open_session
    from spoke.joining import Joiner

    keys = OwnKeys(context.directory.key_files(settings.node.id), trust)
    me = Node(settings.node.id, "spoke", settings.node.skew_s)
    reach = settings.tls.reach(context.directory.path, plain_http=settings.node.insecure_plain_http)
    async with open_session(reach) as session:
        return await how(Joiner(me, keys, settings.node.url, SystemClock()), session, trust)


def _by_invite(text: str) -> _How:
    from common.invites import parse_invite

    invite = parse_invite(sys.stdin.readline() if text == "-" else text)
    return lambda joiner, session, trust: joiner.join(session, trust, invite)


def _by_request(url: str, fingerprint: str, wait: bool) -> _How:
    async def ask(joiner: Joiner, session: ClientSession, trust: TrustStore) -> Peer:
        peer = await joiner.request(session, trust, url, fingerprint)
        while wait and peer.state == "pending":
            await asyncio.sleep(_ASK_AGAIN_S)
            peer = await joiner.request(session, trust, url, fingerprint)
        return peer

    return ask


@click.command()
@click.argument("invite", required=False)
@click.option("--request", "url", metavar="URL", help="Ask the hub at URL; its admin has to approve this spoke.")
@click.option("--fingerprint", metavar="SHA256:…", help="The hub's fingerprint, which came by a way that you trust.")
@click.option("--wait", is_flag=True, help="With --request: come back when the hub's admin has approved.")
@facts
def join(context: SpokeContext, invite: str | None, url: str | None, fingerprint: str | None, wait: bool) -> None:
    """Join a hub by the INVITE string that its admin made (`-` reads it from stdin), or by request."""
    if (invite is None) == (url is None) or (url is None) != (fingerprint is None):
        raise click.UsageError("give an INVITE, or --request URL with --fingerprint")
    how = _by_invite(invite or "") if url is None else _by_request(url, fingerprint or "", wait)
    settings = context.settings()
    with context.trust(settings) as trust:
        context.out.facts(shown(run_async(_join(context, settings, trust, how))))


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
            "SINCE": lambda row: relative_time(datetime.fromisoformat(row["since"]).timestamp(), now_s),
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


peer.add_command(policy)


@peer.command("add")
@click.argument("instance", metavar="ID")
@click.option("--key", type=click.Path(path_type=Path), required=True, help="Its public key, PEM or JWK; - is stdin.")
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
        added = trust.add(new, "active", int(time.time()))
        if checked_url is not None and added.url != checked_url:  # it was registered before
            added = trust.set_url(instance, checked_url)
        context.out.facts(shown(added))


def _set_state(context: SpokeContext, instance: str, state: str) -> None:
    from common.peers import ConnectionState

    (checked,) = (known for known in get_args(ConnectionState) if known == state)
    with context.trust(context.settings()) as trust:
        context.out.facts(shown(trust.set_state(instance, checked)))


@peer.command()
@click.argument("instance", metavar="ID")
@facts
def suspend(context: SpokeContext, instance: str) -> None:
    """Take nothing from a hub and start none of its agents, until `resume`; those that run go on."""
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
    """End the connection for good, and all agents of that hub; it can only join anew and inherits nothing."""
    _set_state(context, instance, "revoked")


@peer.command("revoke-key")
@click.argument("instance", metavar="ID")
@click.argument("fingerprint", metavar="SHA256:…")
@facts
def revoke_key(context: SpokeContext, instance: str, fingerprint: str) -> None:
    """Stop believing a former key of a hub before its overlap is over, such as one that was stolen."""
    from common.rotation_store import RotationStore

    with context.trust(context.settings()) as trust:
        context.out.facts(shown(RotationStore(trust).revoke_key(instance, fingerprint)))
