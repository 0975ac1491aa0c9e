"""Freezing and thawing spokes from the hub: through the outbox, the last word counting, shown with the spoke."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hub.api.models import FreezeView, PeerView
from tests.integration.hub.hub_node import HubNode
from tests.integration.hub.standin_spoke import StandinSpoke, error
from tests.integration.hub.test_api import conforms
from tests.spoke_node import eventually


@pytest.fixture(autouse=True)
def latching(request: pytest.FixtureRequest) -> None:
    """Let the stand-in do as a spoke does."""
    if "spoke" in request.fixturenames:
        let_latch(request.getfixturevalue("spoke"))


def let_latch(spoke: StandinSpoke) -> None:
    spoke.answers["freeze"] = lambda command: {"id": command["id"], "connection": {"frozen": True, "killed": 3}}
    spoke.answers["thaw"] = lambda command: {"id": command["id"], "connection": {"frozen": False}}


async def latch(node: HubNode, spoke: StandinSpoke, action: str, **body: Any) -> dict[str, Any]:
    """Freeze or thaw and return what the API says of it."""
    status, answer = await node.call("POST", f"/api/v1/peers/{spoke.id}/{action}", body or None)
    assert status == 202, answer
    conforms(FreezeView, answer)
    found: dict[str, Any] = answer
    return found


async def until(node: HubNode, spoke: StandinSpoke, state: str) -> dict[str, Any]:
    """Wait until the latest freeze or thaw is in that state, and return the spoke."""

    async def reached() -> dict[str, Any] | None:
        _, view = await node.call("GET", f"/api/v1/peers/{spoke.id}")
        return view if view["freeze"] and view["freeze"]["state"] == state else None

    view: dict[str, Any] = await eventually(reached, f"it is {state}")
    conforms(PeerView, view)
    return view


def said(spoke: StandinSpoke) -> list[str]:
    """What of freezing came to the spoke, with whether it kills."""
    return [
        command["command"] + (" kill" if command.get("killAgents") else "")
        for command in spoke.commands
        if command["command"] in {"freeze", "thaw"}
    ]


async def test_a_freeze_goes_to_the_spoke_and_is_shown_with_it(node: HubNode, spoke: StandinSpoke) -> None:
    _, before = await node.call("GET", f"/api/v1/peers/{spoke.id}")
    assert (before["frozen"], before["freeze"]) == (False, None)
    asked = await latch(node, spoke, "freeze", killAgents=True, reason="budget spent")
    view = await until(node, spoke, "delivered")
    (command,) = spoke.commands
    assert command == {
        "id": asked["commandId"], "command": "freeze", "killAgents": True, "reason": "budget spent",
    }  # fmt: skip
    assert view["frozen"] is True
    assert {name: view["freeze"][name] for name in ("asked", "killed", "reason", "lastError")} == {
        "asked": "freeze", "killed": 3, "reason": "budget spent", "lastError": None,
    }  # fmt: skip
    assert view["pending"] == 0
    await latch(node, spoke, "thaw")
    view = await until(node, spoke, "delivered")
    assert (view["frozen"], view["freeze"]["asked"], view["freeze"]["killed"]) == (False, "thaw", None)


async def test_both_are_audited(node: HubNode, spoke: StandinSpoke) -> None:
    await latch(node, spoke, "freeze", reason="x")
    await latch(node, spoke, "thaw")
    text = "".join(path.read_text() for path in sorted((node.directory / "audit").iterdir()) if path.is_file())
    lines = [line for line in map(json.loads, filter(None, text.splitlines())) if line.get("peer") == spoke.id]
    assert {"freeze.decided", "thaw.asked", "thaw.decided"} <= {line["event"] for line in lines}


@pytest.mark.fault(2)
async def test_a_freeze_survives_the_hub_and_an_absent_spoke(tmp_path: Path) -> None:
    with HubNode(tmp_path) as own:
        async with StandinSpoke(own) as spoke:
            let_latch(spoke)
            await spoke.down()
            asked = await latch(own, spoke, "freeze")
            assert asked["state"] == "pending"
            await own.kill9()
            await own.restart()
            await spoke.up()
            view = await until(own, spoke, "delivered")
            assert view["frozen"] is True
            assert [command["id"] for command in spoke.commands] == [asked["commandId"]]


WORDS: dict[str, tuple[list[str], list[str]]] = {
    "the last word": (["freeze", "thaw", "freeze"], ["freeze"]),
    "a thaw": (["freeze", "thaw"], ["thaw"]),
    "a kill is not lost": (["freeze kill", "thaw"], ["freeze kill", "thaw"]),
    "one kill is enough": (["freeze kill", "thaw", "freeze kill"], ["freeze kill"]),
    "a kill and a freeze": (["freeze kill", "freeze"], ["freeze kill", "freeze"]),
}


@pytest.mark.parametrize(("words", "sent"), WORDS.values(), ids=WORDS.keys())
async def test_of_what_waits_the_last_word_goes(
    node: HubNode, spoke: StandinSpoke, words: list[str], sent: list[str]
) -> None:
    await spoke.down()
    for word in words:
        await latch(node, spoke, word.split()[0], **({"killAgents": True} if word.endswith("kill") else {}))
    await spoke.up()
    view = await until(node, spoke, "delivered")
    assert (said(spoke), view["frozen"], view["pending"]) == (sent, words[-1] != "thaw", 0)


async def test_what_the_spoke_put_off_while_frozen_goes_at_the_thaw(node: HubNode, spoke: StandinSpoke) -> None:
    spoke.answers["spawn"] = error("frozen", retryable=True)
    agent_id = await node.spawn(spoke.id)
    await eventually(lambda: spoke.sent(agent_id) >= 4, "its next attempt is seconds away")
    del spoke.answers["spawn"]
    await latch(node, spoke, "thaw")
    await node.until_delivery(agent_id, "delivered")


async def test_a_refusal_is_shown(node: HubNode, spoke: StandinSpoke) -> None:
    spoke.answers["freeze"] = error("not_allowed", detail="policy.commands does not list freeze")
    await latch(node, spoke, "freeze")
    view = await until(node, spoke, "refused")
    assert (view["frozen"], view["freeze"]["lastError"]["code"]) == (False, "not_allowed")


@pytest.mark.attack(49)
@pytest.mark.parametrize("told", ["active", {"frozen": "yes"}, {"frozen": True, "killed": -1}, {}], ids=str)
async def test_an_answer_that_does_not_say_it_is_none(node: HubNode, spoke: StandinSpoke, told: Any) -> None:
    good = spoke.answers["freeze"]
    spoke.answers["freeze"] = lambda command: {"id": command["id"], "connection": told}
    await latch(node, spoke, "freeze")
    await eventually(lambda: len(spoke.commands) >= 2, "it is sent again")
    spoke.answers["freeze"] = good
    assert (await until(node, spoke, "delivered"))["frozen"] is True


async def test_only_an_active_spoke_can_be_frozen(node: HubNode, spoke: StandinSpoke) -> None:
    node.set_state(spoke.id, "suspended")
    for instance, code in ((spoke.id, "connection_inactive"), ("nobody", "not_found")):
        for action in ("freeze", "thaw"):
            _, problem = await node.call("POST", f"/api/v1/peers/{instance}/{action}")
            assert problem["code"] == code


async def test_a_new_connection_of_the_same_id_is_not_frozen(node: HubNode, spoke: StandinSpoke) -> None:
    await latch(node, spoke, "freeze")
    await until(node, spoke, "delivered")
    node.set_state(spoke.id, "revoked")
    node.add_peer(spoke.id, spoke.key.public, spoke.url)
    _, view = await node.call("GET", f"/api/v1/peers/{spoke.id}")
    assert (view["frozen"], view["freeze"]) == (False, None)


# --- the command line


async def test_the_command_line_freezes_one_and_thaws_it(node: HubNode, spoke: StandinSpoke) -> None:
    done = await node.hub("freeze", spoke.id, "--kill", "--reason", "why", "--json")
    (outcome,) = json.loads(done.stdout)
    assert (done.returncode, outcome["spoke"], outcome["freeze"]["asked"]) == (0, spoke.id, "freeze")
    await until(node, spoke, "delivered")
    shown = (await node.hub("peer", "show", spoke.id)).stdout
    assert [line.split() for line in shown.splitlines() if line.startswith("frozen")] == [["frozen", "yes"]]
    (row,) = [line for line in (await node.hub("peer", "list")).stdout.splitlines() if line.startswith(spoke.id)]
    assert row.split()[:3] == [spoke.id, "active", "yes"]
    done = await node.hub("thaw", spoke.id)
    assert (done.returncode, done.stdout.split()[:2]) == (0, [f"{spoke.id}:", "thaw"])
    for arguments in ((), (spoke.id, "--all")):
        assert (await node.hub("freeze", *arguments)).returncode == 2
    done = await node.hub("freeze", "nobody")
    assert (done.returncode, done.stderr.split()[1]) == (1, "not_found:")


async def test_all_are_the_active_ones(tmp_path: Path) -> None:
    with HubNode(tmp_path) as own:
        async with StandinSpoke(own) as first, StandinSpoke(own) as second, StandinSpoke(own) as suspended:
            for spoke in (first, second):
                let_latch(spoke)
            own.set_state(suspended.id, "suspended")
            done = await own.hub("freeze", "--all", "--kill", "--json")
            assert done.returncode == 0, done.stderr
            assert {outcome["spoke"] for outcome in json.loads(done.stdout)} == {first.id, second.id}
            for spoke in (first, second):
                await until(own, spoke, "delivered")
                assert said(spoke) == ["freeze kill"]
            assert (await own.hub("thaw", "--all")).returncode == 0
            for spoke in (first, second):
                await until(own, spoke, "delivered")
                assert said(spoke) == ["freeze kill", "thaw"]
