"""What was promised before a `kill -9` holds after it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import aiohttp
import pytest

from tests.integration.hub.hub_node import HubNode, run_process, spawn_request
from tests.integration.hub.standin_spoke import StandinSpoke, new_id
from tests.spoke_node import eventually, processes_of


@pytest.fixture
def own(tmp_path: Path) -> Iterator[HubNode]:
    """A hub that this test alone stops."""
    with HubNode(tmp_path) as running:
        yield running


@pytest.mark.fault(2)
async def test_killed_after_the_id_was_returned_the_command_is_sent_after_the_restart(own: HubNode) -> None:
    async with StandinSpoke(own) as spoke:
        await spoke.down()
        agents = [await own.spawn(spoke.id) for _ in range(5)]
        await own.kill9()
        await spoke.up()
        assert spoke.envelopes == []
        await own.restart()
        for agent_id in agents:
            await own.until_delivery(agent_id, "delivered")
        assert [command["id"] for command in spoke.commands] == agents


@pytest.mark.fault(3)
async def test_killed_before_the_reply_is_saved_the_resend_gets_the_same_agent(own: HubNode) -> None:
    async with StandinSpoke(own) as spoke:
        spoke.next("hold")
        agent_id = await own.spawn(spoke.id)
        await eventually(lambda: spoke.envelopes, "the envelope is under way")
        await own.kill9()
        spoke.released.set()
        await own.restart()
        await own.until_delivery(agent_id, "delivered")
        assert [command["id"] for command in spoke.commands] == [agent_id, agent_id]
        assert len(spoke.agents) == 1


def more_than(items: list[str], count: int) -> bool:
    """Whether there are more than so many."""
    return len(items) > count


@pytest.mark.fault(1)
@pytest.mark.fault(2)
@pytest.mark.slow
async def test_at_random_kill_points_every_returned_id_is_delivered_and_no_other_content(own: HubNode) -> None:
    async with StandinSpoke(own) as spoke:
        returned: list[str] = []
        for pause_s in (0.0, 0.01, 0.03):

            async def ask() -> None:
                while True:
                    returned.append(await own.spawn(spoke.id))

            tasks = [asyncio.create_task(ask()) for _ in range(4)]
            await eventually(partial(more_than, returned, len(returned) + 10), "some ids")
            await asyncio.sleep(pause_s)
            await own.kill9()
            await asyncio.gather(*tasks, return_exceptions=True)
            await own.restart()
        for agent_id in returned:
            await own.until_delivery(agent_id, "delivered")
        contents: dict[str, str] = {}
        for command in spoke.commands:
            content = json.dumps(command, sort_keys=True)
            assert contents.setdefault(command["id"], content) == content


@pytest.mark.fault(3)
async def test_a_repeated_request_after_a_restart_is_the_same_agent(own: HubNode) -> None:
    async with StandinSpoke(own) as spoke:
        request = spawn_request(spoke.id, agentId=new_id())
        await own.call("POST", "/api/v1/agents", request)
        await own.kill9()
        await own.restart()
        status, answer = await own.call("POST", "/api/v1/agents", request)
        assert (status, answer["agentId"]) == (202, request["agentId"])
        await own.until_delivery(answer["agentId"], "delivered")
        assert len(spoke.agents) == 1


@pytest.mark.fault(11)
async def test_its_valkey_killed_the_hub_answers_503_and_recovers_with_everything(own: HubNode) -> None:
    async with StandinSpoke(own) as spoke:
        await spoke.down()
        agent_id = await own.spawn(spoke.id)
        (server,) = await eventually(lambda: _valkeys(own), "its Valkey")
        os.kill(server, signal.SIGKILL)

        async def ready() -> bool:
            status, _ = await own.call("GET", "/readyz")
            return status == 200 and _valkeys(own) not in ([], [server])

        await eventually(ready, "it is ready again")
        await spoke.up()
        await own.until_delivery(agent_id, "delivered")


def _valkeys(own: HubNode) -> list[int]:
    return [pid for pid, line in processes_of(own.directory).items() if "valkey-server" in line.split()[0]]


async def test_sigterm_ends_it_soon_also_with_watchers_and_commands_under_way(own: HubNode) -> None:
    async with StandinSpoke(own) as spoke, aiohttp.ClientSession() as session:
        spoke.next("hold")
        await own.spawn(spoke.id)
        await eventually(lambda: spoke.envelopes, "the envelope is under way")
        headers = {"Authorization": f"Bearer {own.token}"}
        async with session.get(f"{own.url}/api/v1/events", headers=headers) as response:
            assert response.status == 200
            started = asyncio.get_running_loop().time()
            assert await own.terminate() == 0
            assert asyncio.get_running_loop().time() - started < 5
        assert own.log_lines("request.crashed") == []


async def test_a_second_hub_on_the_same_directory_is_refused_and_the_first_goes_on(own: HubNode) -> None:
    second = await asyncio.to_thread(run_process, "--dir", str(own.directory), "serve")
    assert second.returncode == 1
    assert second.stderr.splitlines()[-1].startswith("error: already_running: ")
    assert second.stdout == ""
    status, _ = await own.call("GET", "/readyz")
    assert status == 200


@pytest.fixture
def strict(tmp_path: Path) -> Iterator[HubNode]:
    """A hub that allows no skew, and so takes fresh envelopes a second after it lost its store."""
    with HubNode(tmp_path, toml="skew_s = 0\n") as running:
        yield running


@pytest.mark.fault(14)
@pytest.mark.fault(31)
@pytest.mark.attack(25)
async def test_restored_from_an_old_backup_it_heals_from_what_the_spokes_say(strict: HubNode) -> None:
    own = strict
    async with StandinSpoke(own) as spoke:
        request = spawn_request(spoke.id, agentId=new_id(), taskId="T-9")
        await own.call("POST", "/api/v1/agents", request)
        await own.until_delivery(request["agentId"], "delivered")
        seen = spoke.seal_events(spoke.advance(request["agentId"], "running"))
        assert (await spoke.post(seen))[0] == 200
        await own.terminate()
        for file in sorted((own.directory / "valkey").rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()
        await own.restart()
        assert await own.agent(request["agentId"]) == {}
        # What it may have taken before is not taken again; its log says what is gone.
        status, body = await spoke.post(seen)
        assert (status, json.loads(body)["code"]) == (503, "unavailable")
        assert await own.agent(request["agentId"]) == {}
        assert [line["cause"] for line in own.log_lines("store.lost")] == ["emptied"]
        await eventually(lambda: own.log_lines("outbox.lost"), "it says what is lost")

        async def ready() -> bool:
            return (await own.call("GET", "/readyz"))[0] == 200

        await eventually(ready, "it is ready again")
        result = {"summary": "done", "commits": []}
        await spoke.report(spoke.advance(request["agentId"], "completed", result=result))
        healed = await own.agent(request["agentId"])
        assert (healed["status"], healed["taskId"], healed["spoke"]) == ("completed", "T-9", spoke.id)
        assert healed["result"] == result
        # Asked for again, the spoke decides whether it is the same: it is.
        status, _ = await own.call("POST", "/api/v1/agents", request)
        assert status == 202
        await eventually(lambda: spoke.sent(request["agentId"]) == 2, "the spawn is sent again")
        assert (await own.until_delivery(request["agentId"], "delivered"))["status"] == "completed"


async def test_it_goes_on_after_it_has_sealed_its_audit(tmp_path: Path) -> None:
    with HubNode(tmp_path, toml="\n[audit]\ncheckpoint_s = 1\n") as own:
        async with StandinSpoke(own) as spoke:
            await own.until_delivery(await own.spawn(spoke.id), "delivered")
            await eventually(lambda: own.log_lines("audit.checkpoint", cause="time"), "a checkpoint in time")
            await own.until_delivery(await own.spawn(spoke.id), "delivered")
