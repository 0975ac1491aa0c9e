"""Rotating keys of running nodes: by their command lines, over the link, and by a hub that is not ours."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.envelope import EnvelopeType
from common.keyring import SigningKey
from common.rotation import rotate_fields
from tests.envelopes import key_of, sign
from tests.integration.link.pair import Pair, join, linked
from tests.peer import HubPeer, new_id
from tests.spoke_node import SpokeNode, eventually, run_in_process

NewHub = Callable[[SpokeNode], HubPeer]
NEXT = key_of(250)
LATER = key_of(251)


def is_complete(keys: Callable[..., Any]) -> Callable[[], Any]:
    """Whether `keys show` says that every peer knows the latest key."""

    async def complete() -> bool:
        report = json.loads((await keys("keys", "show", "--json")).stdout)
        return report["rotation"] is not None and all(peer["acknowledged"] for peer in report["peers"])

    return complete


async def works(pair: Pair) -> None:
    """Take an agent from the hub's API to its end, so that commands and events have gone both ways."""
    await pair.up()
    agent = await pair.until(await pair.spawn('result {"summary": "done"}'), "completed")
    assert agent["result"]["summary"] == "done"


@pytest.mark.slow
@pytest.mark.fault(34)
async def test_both_sides_rotate_while_agents_run_and_one_side_is_away(tmp_path: Path) -> None:
    async with linked(tmp_path) as pair:
        running = await pair.spawn("sleep 60")
        await pair.until(running, "running", live=True)
        commands: tuple[Callable[..., Any], ...] = (pair.hub.hub, pair.spoke.spoke)
        for command in commands:
            before = json.loads((await command("keys", "show", "--json")).stdout)
            rotated = json.loads((await command("keys", "rotate", "--json")).stdout)
            assert rotated["kid"] != before["kid"]
            assert rotated["rotation"]["former"] == before["fingerprint"]
            await eventually(is_complete(command), "the other side acknowledged")
            await works(pair)
        await pair.spoke.terminate()
        away = json.loads((await pair.hub.hub("keys", "rotate", "--json")).stdout)
        assert [peer["acknowledged"] for peer in away["peers"]] == [False]
        assert away["peers"][0]["signedWith"] == away["rotation"]["former"]
        refused = await pair.hub.hub("keys", "rotate")
        assert (refused.returncode, "rotation_open" in refused.stderr) == (1, True)
        waiting = await pair.spawn("print x")
        await pair.spoke.restart()
        await pair.until(waiting, "completed")
        await eventually(is_complete(pair.hub.hub), "the spoke acknowledged when it was back")
        await pair.hub.call("POST", f"/api/v1/agents/{running}/kill", {"graceS": 0})
        await pair.until(running, "killed")
        shown = json.loads((await pair.spoke.spoke("peer", "show", pair.hub.id, "--json")).stdout)
        assert shown["fingerprint"] == away["fingerprint"]
        assert len(shown["former"]) == 2
        assert len((await pair.peer())["formerKeys"]) == 1


@pytest.mark.slow
async def test_a_node_that_was_down_for_its_own_rotation_tells_of_it_at_its_start(tmp_path: Path) -> None:
    async with linked(tmp_path) as pair:
        await pair.spoke.terminate()
        assert (await pair.spoke.spoke("keys", "rotate")).returncode == 0
        await pair.spoke.restart()
        await eventually(is_complete(pair.spoke.spoke), "the hub acknowledged")
        await works(pair)


@pytest.mark.slow
@pytest.mark.attack(31)
@pytest.mark.parametrize("whose", ["hub", "spoke"])
async def test_the_way_out_when_a_current_key_was_stolen(tmp_path: Path, whose: str) -> None:
    async with linked(tmp_path) as pair:
        of_hub: Callable[..., Any] = pair.hub.hub
        of_spoke: Callable[..., Any] = pair.spoke.spoke
        robbed, other = (of_hub, of_spoke) if whose == "hub" else (of_spoke, of_hub)
        await other("peer", "revoke", pair.hub.id if whose == "hub" else pair.spoke.id)
        rotated = await robbed("keys", "rotate")
        assert rotated.returncode == 0, rotated.stderr
        await join(pair.hub, pair.spoke)
        await works(pair)
        for command in (of_hub, of_spoke):
            peers = json.loads((await command("keys", "show", "--json")).stdout)["peers"]
            assert [peer["acknowledged"] for peer in peers] == [True]


def rotation(hub: HubPeer, node: SpokeNode, **changes: Any) -> bytes:
    """A ROTATE of the hub, signed by `signer`, to `key`."""
    signer: SigningKey = changes.pop("signer", hub.key)
    key, epoch = changes.pop("key", NEXT), changes.pop("epoch", 1)
    payload = {**hub.claims(node), **rotate_fields(signer.kid, key, epoch, node.id), **changes}
    return sign(payload, key=signer, typ=EnvelopeType.ROTATE)


def status_by(hub: HubPeer, node: SpokeNode, key: SigningKey) -> bytes:
    """A status command signed by that key."""
    return sign({**hub.claims(node), "commands": [hub.about("status", new_id())]}, key=key)


def keys_of(hub: HubPeer, node: SpokeNode) -> Any:
    """What the spoke knows of the hub's keys."""
    shown = json.loads(run_in_process(node.directory, "peer", "show", hub.id, "--json"))
    former = [each["fingerprint"] for each in shown.get("former") or []]
    return shown["fingerprint"], former


@pytest.mark.attack(31)
@pytest.mark.attack(32)
async def test_what_a_hub_can_and_cannot_do_with_its_keys(tmp_path: Path, new_hub: NewHub) -> None:
    async with SpokeNode(tmp_path) as node:
        hub = new_hub(node)
        old = hub.key
        for bad, code in (
            (rotation(hub, node, proof="A" * 86), "bad_signature"),
            (rotation(hub, node, next={"kty": "OKP"}), "malformed"),
            (rotation(hub, node, signer=LATER), "bad_signature"),
        ):
            assert (await hub.post(node, bad)).code == code
        assert keys_of(hub, node) == (old.public.fingerprint, [])
        good = rotation(hub, node, epoch=5)
        answer = await hub.post(node, good)
        assert answer.status == 200
        (result,) = hub.open(node, answer.body).body.results  # type: ignore[union-attr]
        assert (result.id, result.epoch) == (NEXT.kid, 5)
        assert (await hub.post(node, good)).code == "replayed"
        for key in (old, NEXT):
            assert (await hub.post(node, status_by(hub, node, key))).status == 200
        for refused, code in (
            (rotation(hub, node, signer=NEXT, key=LATER, epoch=5), "stale"),
            (rotation(hub, node, signer=old, key=LATER, epoch=6), "not_allowed"),
            (rotation(hub, node, signer=NEXT, key=old, epoch=6), "not_allowed"),
        ):
            (result,) = hub.open(node, (await hub.post(node, refused)).body).body.results  # type: ignore[union-attr]
            assert result.error is not None
            assert result.error.code == code
        assert keys_of(hub, node) == (NEXT.public.fingerprint, [old.public.fingerprint])
        run_in_process(node.directory, "peer", "revoke-key", hub.id, old.public.fingerprint)
        revoked = await hub.post(node, status_by(hub, node, old))
        assert (revoked.status, revoked.code) == (401, "bad_signature")
        assert (await hub.post(node, status_by(hub, node, NEXT))).status == 200
        other = await hub.post(node, status_by(hub, node, LATER))
        assert other.problem == revoked.problem
        assert node.processes()
        assert await node.agents() == []


@pytest.mark.attack(31)
async def test_an_agent_queued_under_a_former_key_is_started_one_under_a_revoked_key_is_not(
    tmp_path: Path, new_hub: NewHub, origin: Path
) -> None:
    async with SpokeNode(tmp_path) as node:
        hub = new_hub(node)
        await node.call("POST", "/queue/pause", {"on": True})
        first = hub.spawn(origin)
        await hub.send(node, first)
        await hub.post(node, rotation(hub, node))
        await node.call("POST", "/queue/pause", {"on": False})
        assert (await node.until_ended(first["id"]))["status"] == "completed"
        await node.call("POST", "/queue/pause", {"on": True})
        second = hub.spawn(origin)
        await hub.send(node, second)
        run_in_process(node.directory, "peer", "revoke-key", hub.id, hub.key.public.fingerprint)
        await node.call("POST", "/queue/pause", {"on": False})
        ended = await node.until_ended(second["id"])
        assert (ended["status"], ended["reason"]) == ("failed", "tampered")
        assert node.executions(second["id"]) == []
