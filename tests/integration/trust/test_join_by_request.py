"""Joining by request with both command lines: pending until the admin names the fingerprint, then active by itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.integration.hub.hub_node import HubNode
from tests.integration.link.pair import Pair
from tests.integration.spoke.repositories import make_repository
from tests.spoke_node import SpokeNode, eventually

NOWHERE = "http://127.0.0.1:1"


async def state_here(spoke: SpokeNode) -> str:
    shown = await spoke.spoke("peer", "list", "--json")
    states = [peer["state"] for peer in json.loads(shown.stdout)]
    return states[0] if states else ""


@pytest.mark.slow
@pytest.mark.attack(34)
async def test_a_request_waits_for_its_approval_and_then_all_works(tmp_path: Path) -> None:
    with HubNode(tmp_path) as hub:
        async with SpokeNode(tmp_path) as spoke:
            fingerprint = hub.key.public.fingerprint
            wrong = await spoke.spoke("join", "--request", hub.url, "--fingerprint", f"SHA256:{'A' * 43}")
            assert (wrong.returncode, "another_hub" in wrong.stderr) == (1, True)
            assert hub.log_lines("join.received") == []
            assert await state_here(spoke) == ""
            asked = await spoke.spoke("join", "--request", hub.url, "--fingerprint", fingerprint, "--json")
            assert json.loads(asked.stdout)["state"] == "pending"
            (listed,) = json.loads((await hub.hub("peer", "list", "--json")).stdout)
            mine = json.loads((await spoke.spoke("keys", "show", "--json")).stdout)["fingerprint"]
            assert (listed["id"], listed["state"], listed["fingerprint"]) == (spoke.id, "pending", mine)
            status, refused = await hub.call("POST", "/api/v1/agents", _spawn(spoke.id, tmp_path))
            assert (status, refused["code"]) == (409, "connection_inactive")
            not_mine = await hub.hub("peer", "approve", spoke.id, fingerprint)
            assert not_mine.returncode == 1
            assert (await hub.hub("peer", "resume", spoke.id)).returncode == 1
            approved = await hub.hub("peer", "approve", spoke.id, mine)
            assert approved.returncode == 0, approved.stderr
            await eventually(lambda: _is(spoke, "active"), "the spoke hears of its approval by itself", 60)
            pair = Pair(hub, spoke, make_repository(tmp_path / "repository"))
            await pair.up()
            await pair.until(await pair.spawn("print hello"), "completed")


async def _is(spoke: SpokeNode, state: str) -> bool:
    return await state_here(spoke) == state


def _spawn(spoke: str, directory: Path) -> dict[str, object]:
    context = {"repository": directory.as_uri(), "branch": "main", "workItems": ["x"]}
    return {"spoke": spoke, "taskId": "T-1", "agentType": "worker", "context": context}


async def test_a_request_without_a_running_node_is_answered_by_repeating_it(tmp_path: Path) -> None:
    with HubNode(tmp_path) as hub:
        spoke = SpokeNode(tmp_path)
        ask = ("join", "--request", hub.url, "--fingerprint", hub.key.public.fingerprint, "--json")
        for _ in range(2):
            assert json.loads((await spoke.spoke(*ask)).stdout)["state"] == "pending"
        (listed,) = json.loads((await hub.hub("peer", "list", "--json")).stdout)
        await hub.hub("peer", "approve", spoke.id, listed["fingerprint"])
        assert json.loads((await spoke.spoke(*ask, "--wait")).stdout)["state"] == "active"
        assert await state_here(spoke) == "active"


@pytest.mark.attack(33)
async def test_a_revoked_spoke_that_asks_again_is_a_new_connection(tmp_path: Path) -> None:
    with HubNode(tmp_path) as hub:
        spoke = SpokeNode(tmp_path)
        ask = ("join", "--request", hub.url, "--fingerprint", hub.key.public.fingerprint, "--json")
        await spoke.spoke(*ask)
        with hub.trust() as trust:
            first = trust.find(spoke.id)
        await hub.hub("peer", "revoke", spoke.id)
        await spoke.spoke(*ask)
        with hub.trust() as trust:
            second = trust.find(spoke.id)
        assert (second.state, second.tenant == first.tenant) == ("pending", False)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--request", "http://127.0.0.1:1"),
        ("hubspoke1.x", "--request", "http://127.0.0.1:1"),
        ("--fingerprint", "x"),
    ],
    ids=["nothing", "no fingerprint", "both", "no url"],
)
async def test_a_join_that_says_too_little_or_too_much_is_a_usage_error(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    spoke = SpokeNode(tmp_path)
    assert (await spoke.spoke("join", *arguments)).returncode == 2


async def test_a_hub_with_another_key_is_not_joined_before_the_former_one_is_revoked(tmp_path: Path) -> None:
    with HubNode(tmp_path) as hub:
        spoke = SpokeNode(tmp_path)
        invited = await hub.hub("invite")
        assert (await spoke.spoke("join", "-", stdin=invited.stdout)).returncode == 0
        rotated = json.loads((await hub.hub("keys", "rotate", "--json")).stdout)
        ask = ("join", "--request", hub.url, "--fingerprint", rotated["fingerprint"])
        refused = await spoke.spoke(*ask)
        assert (refused.returncode, "peer_refused" in refused.stderr) == (1, True)
        assert len(hub.log_lines("join.received")) == 1
        await spoke.spoke("peer", "revoke", hub.id)
        assert (await spoke.spoke(*ask)).returncode == 0
        (peer,) = json.loads((await hub.hub("keys", "show", "--json")).stdout)["peers"]
        assert peer["acknowledged"] is True


async def test_invites_are_listed_and_withdrawn(tmp_path: Path) -> None:
    with HubNode(tmp_path) as hub:
        spoke = SpokeNode(tmp_path)
        made = [json.loads((await hub.hub("invite", "--ttl", ttl, "--json")).stdout) for ttl in ("2h", "1h")]
        labelled = json.loads((await hub.hub("invite", "--label", "zone=eu", "--json")).stdout)
        listed = json.loads((await hub.hub("invite", "list", "--json")).stdout)
        assert [each["id"] for each in listed] == [made[1]["id"], made[0]["id"], labelled["id"]]
        assert listed[2]["labels"] == {"zone": "eu"}
        assert "invite" not in listed[0]
        assert (await hub.hub("invite", "withdraw", made[0]["id"])).returncode == 0
        void = await spoke.spoke("join", made[0]["invite"])
        assert (void.returncode, "invite_refused" in void.stderr) == (1, True)
        assert "ask its admin for a new one" in void.stderr
        assert (await spoke.spoke("join", made[1]["invite"])).returncode == 0
        used = await hub.hub("invite", "withdraw", made[1]["id"])
        assert (used.returncode, "invite_refused" in used.stderr) == (1, True)
        assert labelled["id"] in (await hub.hub("invite", "list")).stdout
