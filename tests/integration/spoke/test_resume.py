"""`resume` on a real spoke: a new attempt in the same workspace, home and session, once, whatever fails."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.spoke.repositories import git
from tests.peer import HubPeer
from tests.spoke_node import SpokeNode, eventually, run_in_process, tables

NewHub = Callable[[SpokeNode], HubPeer]
COMMANDS = ["spawn", "status", "kill", "logs", "diff", "send", "resume"]


def started(node: SpokeNode, agent_id: str) -> list[int]:
    """The attempts of an agent that its program was really started for."""
    record = node.directory.parent / "executions"
    lines = [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []
    return [line["attempt"] for line in lines if line["agentId"] == agent_id]


def toml_of(**agents: Any) -> str:
    return tables(**{"agents.worker": {"profile": "fake"}, **agents}, policy={"commands": COMMANDS})


@pytest.fixture(scope="module")
def fakes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SpokeNode]:
    place = tmp_path_factory.mktemp("fakes")
    toml = toml_of(**{"agents.tester": {"profile": "report"}})
    with SpokeNode(place, toml=toml, env={"FAKE_RECORD": str(place / "executions")}) as node:
        yield node


@pytest.fixture
def boss(fakes: SpokeNode, new_hub: NewHub) -> HubPeer:
    return new_hub(fakes)


async def ended(boss: HubPeer, node: SpokeNode, origin: Path, *items: str, **changes: Any) -> str:
    """An agent that has ended, and whose workspace is gone."""
    await boss.ask(node, spawn := boss.spawn(origin, *items, **changes))
    await node.until_ended(spawn["id"])
    await no_workspace(node, spawn["id"])
    return str(spawn["id"])


async def no_workspace(node: SpokeNode, agent_id: str) -> None:
    trees = f"workspaces/agents/*/{agent_id}/tree"
    await eventually(lambda: not list(node.directory.glob(trees)), "its workspace is removed")


async def log_of(boss: HubPeer, node: SpokeNode, agent_id: str) -> str:
    return str((await boss.ask(node, boss.about("logs", agent_id)))["log"]["data"])


async def until_again(node: SpokeNode, agent_id: str, attempt: int = 2) -> dict[str, Any]:
    async def over() -> dict[str, Any] | None:
        agent = await node.until_ended(agent_id)
        return agent if agent["attempt"] == attempt else None

    agent: dict[str, Any] = await eventually(over, f"attempt {attempt} is over")
    return agent


async def test_it_goes_on_where_it_was_with_its_session_and_the_message(
    fakes: SpokeNode, boss: HubPeer, origin: Path
) -> None:
    agent_id = await ended(boss, fakes, origin, "commit a.txt", "write b.txt", "fail out of ideas")
    resume = boss.about("resume", agent_id, text="commit c.txt")
    answer = (await boss.ask(fakes, resume))["agent"]
    assert (answer["agentId"], answer["status"], answer.get("reason")) == (agent_id, "queued", None)
    agent = await until_again(fakes, agent_id)
    assert (agent["status"], agent["attempt"]) == ("completed", 2)
    assert [commit["subject"] for commit in agent["result"]["commits"]] == ["Add a.txt", "Add c.txt"]
    assert agent["result"]["diffStat"]["files"] == 3  # b.txt is there still, uncommitted
    assert agent["result"]["data"]["sessionId"] == agent_id
    assert "resumed after 1" in await log_of(boss, fakes, agent_id)
    assert started(fakes, agent_id) == [1, 2]
    patch = (await boss.ask(fakes, boss.about("diff", agent_id)))["diff"]["data"]
    assert all(f"+++ b/{name}.txt" in patch for name in "abc")


async def test_sent_often_it_is_one_attempt(fakes: SpokeNode, boss: HubPeer, origin: Path) -> None:
    agent_id = await ended(boss, fakes, origin, "say done")
    resume = boss.about("resume", agent_id)
    answers = await asyncio.gather(*(boss.ask(fakes, resume) for _ in range(4)))
    assert {answer["agent"]["agentId"] for answer in answers} == {agent_id}
    await until_again(fakes, agent_id)
    assert (await boss.ask(fakes, resume))["agent"]["status"] == "completed"
    assert started(fakes, agent_id) == [1, 2]
    other = await boss.ask(fakes, {**resume, "text": "something else"})
    assert other["error"]["code"] == "conflict"


async def test_again_and_again_in_one_session(fakes: SpokeNode, boss: HubPeer, origin: Path) -> None:
    agent_id = await ended(boss, fakes, origin, "say done")
    for attempt in (2, 3, 4):
        await boss.ask(fakes, boss.about("resume", agent_id, text=f"commit {attempt}.txt"))
        agent = await until_again(fakes, agent_id, attempt)
        await no_workspace(fakes, agent_id)
    assert "resumed after 3" in await log_of(boss, fakes, agent_id)
    assert len(agent["result"]["commits"]) == 3


async def test_right_after_its_end_it_waits_until_its_workspace_was_put_away(
    fakes: SpokeNode, boss: HubPeer, origin: Path
) -> None:
    await boss.ask(fakes, spawn := boss.spawn(origin, "write a.txt"))
    while True:
        answer = await boss.ask(fakes, boss.about("resume", spawn["id"], text="write b.txt"))
        if "agent" in answer:
            break
        assert answer["error"]["code"] == "not_allowed"
    agent = await until_again(fakes, spawn["id"])
    assert (agent["status"], agent["result"]["diffStat"]["files"]) == ("completed", 2)


async def test_a_killed_one_goes_on_and_can_be_killed_again(fakes: SpokeNode, boss: HubPeer, origin: Path) -> None:
    await boss.ask(fakes, spawn := boss.spawn(origin, "write a.txt", "sleep 60"))
    await eventually(lambda: list(fakes.directory.glob(f"workspaces/agents/*/{spawn['id']}/tree/a.txt")), "it works")
    await boss.ask(fakes, boss.about("kill", spawn["id"], graceS=1))
    agent = await fakes.until_ended(spawn["id"])
    assert (agent["status"], agent["receipt"]["survivors"]) == ("killed", 0)
    await boss.ask(fakes, boss.about("resume", spawn["id"], text="sleep 60"))
    await eventually(lambda: started(fakes, spawn["id"]) == [1, 2], "it runs again")
    assert list(fakes.directory.glob(f"workspaces/agents/*/{spawn['id']}/tree/a.txt"))
    await boss.ask(fakes, boss.about("kill", spawn["id"], graceS=1))
    agent = await until_again(fakes, spawn["id"])
    assert (agent["status"], agent["receipt"]["survivors"]) == ("killed", 0)


async def test_a_program_without_sessions_does_its_task_again_in_the_same_tree(
    fakes: SpokeNode, boss: HubPeer, origin: Path
) -> None:
    agent_id = await ended(boss, fakes, origin, "look", agentType="tester")
    await boss.ask(fakes, boss.about("resume", agent_id, text="look closer"))
    assert (await until_again(fakes, agent_id))["status"] == "completed"
    (task,) = fakes.directory.glob(f"runs/*/{agent_id}/2/task.json")
    document = json.loads(task.read_text())
    assert (document["attempt"], document["resume"]) == (2, {"text": "look closer"})
    (first,) = fakes.directory.glob(f"runs/*/{agent_id}/1/task.json")
    assert "resume" not in json.loads(first.read_text())


@pytest.mark.attack(54)
async def test_a_session_that_would_be_an_option_is_none(fakes: SpokeNode, boss: HubPeer, origin: Path) -> None:
    """The session's name is what the agent printed, and it becomes an argument."""
    init = json.dumps({"type": "system", "subtype": "init", "session_id": "--dangerously-skip-permissions"})
    agent_id = await ended(boss, fakes, origin, f"print {init}")
    await boss.ask(fakes, boss.about("resume", agent_id, text="environment"))
    agent = await until_again(fakes, agent_id)
    (spec,) = fakes.directory.glob(f"runs/*/{agent_id}/2/launch.json")
    assert "--dangerously" not in spec.read_text()
    assert agent["status"] == "completed"


@pytest.mark.parametrize("place", ["home", "log"])
async def test_what_an_agent_put_in_place_of_its_home_or_log_is_not_taken_for_it(
    fakes: SpokeNode, boss: HubPeer, origin: Path, place: str
) -> None:
    agent_id = await ended(boss, fakes, origin, "say done")
    (run,) = fakes.directory.glob(f"runs/*/{agent_id}/1")
    target = run / ("home" if place == "home" else "log")
    assert target.exists()
    target.rename(run / "moved")
    target.symlink_to("/etc")
    await boss.ask(fakes, boss.about("resume", agent_id, text="say again"))
    agent = await until_again(fakes, agent_id)
    assert agent["status"] == "completed"
    homes = [path.parent.parent.name for path in run.parent.glob("*/home/fake-*")]
    assert homes == (["2"] if place == "home" else ["1"])


@pytest.mark.fault(8)
async def test_the_spoke_may_be_killed_at_any_time(tmp_path: Path, new_hub: NewHub, origin: Path) -> None:
    env = {"FAKE_RECORD": str(tmp_path / "executions")}
    async with SpokeNode(tmp_path, toml=toml_of(), env=env) as node:
        hub = new_hub(node)
        agent_id = await ended(hub, node, origin, "commit a.txt", maxAttempts=3)
        resume = hub.about("resume", agent_id, text="commit b.txt\nlisten")
        await hub.ask(node, resume)
        await node.kill9()
        await node.restart()
        await hub.ask(node, resume)
        await eventually(lambda: started(node, agent_id)[1:], "it runs")
        await node.kill9()
        await node.restart()
        assert (await hub.ask(node, resume))["agent"]["status"] in {"spawning", "running"}

        async def sent() -> bool:
            return "agent" in await hub.ask(node, hub.about("send", agent_id, text="say over"))

        await eventually(sent, "the message was taken")
        agent = await node.until_ended(agent_id)
        assert (agent["status"], agent["result"]["summary"]) == ("completed", "over")
        assert [commit["subject"] for commit in agent["result"]["commits"]] == ["Add a.txt", "Add b.txt"]
        assert started(node, agent_id) == [1, agent["attempt"]]


async def test_a_policy_that_changed_decides_about_the_resume(tmp_path: Path, new_hub: NewHub, origin: Path) -> None:
    async with SpokeNode(tmp_path, toml=toml_of()) as node:
        hub = new_hub(node)
        agent_id = await ended(hub, node, origin, "say done")
        rules = tmp_path / "rules.toml"
        rules.write_text('commands = ["resume"]\nagent_types = ["worker"]\nrepositories = ["https://elsewhere/**"]\n')
        run_in_process(node.directory, "peer", "policy", hub.id, "--set", str(rules))
        refused = await hub.ask(node, hub.about("resume", agent_id))
        assert (refused["error"]["code"], "policy.repositories" in refused["error"]["detail"]) == ("not_allowed", True)


@pytest.mark.attack(37)
async def test_another_hub_resumes_nothing(fakes: SpokeNode, boss: HubPeer, new_hub: NewHub, origin: Path) -> None:
    agent_id = await ended(boss, fakes, origin, "say done")
    stranger = new_hub(fakes)
    foreign = await stranger.ask(fakes, stranger.about("resume", agent_id))
    absent = await stranger.ask(fakes, stranger.about("resume", stranger.spawn(origin)["id"]))
    assert foreign["error"] == absent["error"]
    assert foreign["error"]["code"] == "not_found"
    assert started(fakes, agent_id) == [1]


async def test_the_remote_sees_nothing_of_it(fakes: SpokeNode, boss: HubPeer, origin: Path) -> None:
    before = git(origin, "for-each-ref")
    agent_id = await ended(boss, fakes, origin, "commit a.txt")
    await boss.ask(fakes, boss.about("resume", agent_id, text="commit b.txt"))
    await until_again(fakes, agent_id)
    assert git(origin, "for-each-ref") == before
