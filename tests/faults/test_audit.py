"""A disk that takes no more audit lines: nothing new is taken, what runs can be looked at and killed (fault row 29)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.hub.hub_node import HubNode, spawn_request
from tests.integration.hub.standin_spoke import StandinSpoke, agent_status
from tests.integration.spoke.repositories import make_repository
from tests.peer import HubPeer, new_id
from tests.spoke_node import SpokeNode, eventually

pytestmark = pytest.mark.fault(29)


@contextmanager
def unwritable(directory: Path) -> Iterator[None]:
    """Take away what appending needs, whoever the node runs as; nothing of the audit itself is touched."""
    lock = directory / "audit" / "lock"
    lock.unlink()
    lock.mkdir()
    try:
        yield
    finally:
        lock.rmdir()


def events(node: SpokeNode | HubNode) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (node.directory / "audit" / "audit.jsonl").read_text().splitlines()]


class TestSpoke:
    @pytest.fixture
    async def node(self, tmp_path: Path) -> AsyncIterator[SpokeNode]:
        async with SpokeNode(tmp_path) as node:
            yield node

    @pytest.fixture
    def origin(self, tmp_path: Path) -> Path:
        return make_repository(tmp_path / "origin")

    async def test_starts_nothing_and_kills_all_the_same(self, node: SpokeNode, origin: Path) -> None:
        hub = HubPeer()
        hub.register(node)
        running, refused = hub.spawn(origin, "sleep 60"), hub.spawn(origin)
        await hub.send(node, running)
        await node.until(running["id"], "running")
        with unwritable(node.directory):
            answer = await hub.post(node, hub.seal(node, refused))
            assert (answer.status, answer.code, answer.headers["Retry-After"]) == (503, "unavailable", "5")
            assert (await node.call("GET", "/readyz"))[0] == 503
            assert await node.agent(refused["id"]) == {}
            (looked,) = await hub.send(node, hub.about("status", running["id"]))
            assert looked["agent"]["status"] == "running"
            withheld, killed = await hub.send(node, refused, hub.about("kill", running["id"], graceS=0))
            assert (withheld["error"]["code"], withheld["error"]["retryable"]) == ("draining", True)
            assert "agent" in killed
            await node.until(running["id"], "killed")
            assert await node.agent(refused["id"]) == {}
            unwritten = node.log_lines("audit.unwritten")
            assert [line["decision"] for line in unwritten] == ["command.decided", "command.decided"]
            assert running["id"] in str(unwritten[-1]["decisions"])
        (accepted,) = await hub.send(node, refused)
        assert "agent" in accepted
        await node.until_ended(refused["id"])
        assert len(node.executions(refused["id"])) == 1

    async def test_takes_no_spawn_of_its_own_machine_either(self, node: SpokeNode, origin: Path) -> None:
        context = {"repository": origin.as_uri(), "branch": "main", "workItems": ["-"]}
        wish = {"taskId": "T-1", "agentType": "worker", "context": context}
        with unwritable(node.directory):
            status, problem = await node.call("POST", "/agents/spawn", wish)
            assert (status, problem["code"]) == (503, "unavailable")
            assert await node.agents() == []
        status, taken = await node.call("POST", "/agents/spawn", wish)
        assert status == 201
        await node.until_ended(taken["agentId"])

    async def test_a_peer_is_let_in_only_when_it_is_written_down_and_out_always(self, node: SpokeNode) -> None:
        first = HubPeer()
        first.register(node)
        with unwritable(node.directory):
            suspended = await node.spoke("peer", "suspend", first.id)
            assert suspended.returncode == 0, suspended.stderr
            resumed = await node.spoke("peer", "resume", first.id)
            assert (resumed.returncode, resumed.stderr.split(": ")[1]) == (1, "unavailable")
            answer = await first.post(node, first.seal(node, first.about("status", new_id())))
            assert (answer.status, answer.code) == (403, "connection_inactive")
        assert '"suspended"' in (await node.spoke("peer", "show", first.id, "--json")).stdout

    async def test_says_so_and_goes_on_by_itself(self, node: SpokeNode) -> None:
        hub = HubPeer()
        hub.register(node)
        with unwritable(node.directory):
            await hub.post(node, b"nonsense")
            await eventually(lambda: node.log_lines("audit.unavailable"), "the node complains")
        await eventually(lambda: node.log_lines("audit.available"), "the node is well again")
        assert "audit.resumed" in [line["event"] for line in events(node)]
        checked = await node.spoke("audit", "verify")
        assert checked.returncode == 0, checked.stdout


class TestHub:
    @pytest.fixture
    def node(self, tmp_path: Path) -> Iterator[HubNode]:
        with HubNode(tmp_path) as node:
            yield node

    async def test_takes_no_spawn_and_no_event_and_kills_all_the_same(self, node: HubNode) -> None:
        async with StandinSpoke(node) as spoke:
            agent_id = await node.spawn(spoke.id)
            await node.until_delivery(agent_id, "delivered")
            with unwritable(node.directory):
                status, problem = await node.call("POST", "/api/v1/agents", spawn_request(spoke.id))
                assert (status, problem["code"]) == (503, "unavailable")
                assert (await node.call("GET", "/readyz"))[0] == 503
                status, _ = await spoke.post(spoke.seal_events(agent_status(agent_id, status="running", seq=2)))
                assert status == 503
                status, _ = await node.call("POST", f"/api/v1/agents/{agent_id}/kill", {})
                assert status == 202
                await eventually(lambda: spoke.sent(agent_id, "kill") == 1, "the kill arrives")
                assert (await node.call("GET", "/api/v1/agents"))[0] == 200
            assert [command["id"] for command in spoke.commands if command["command"] == "spawn"] == [agent_id]
            await node.until_delivery(await node.spawn(spoke.id), "delivered")
