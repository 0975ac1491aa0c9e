"""The fake agent of tests, run by a real spoke; and with it how what a program says becomes a status and a result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.spoke.repositories import commit
from tests.peer import HubPeer
from tests.spoke_node import SpokeNode, eventually, tables

NewHub = Callable[[SpokeNode], HubPeer]
SECRET = "sk-nobody-may-see-this"


def faking(**worker: Any) -> str:
    """Return spoke.toml with the fake agent as worker and reviewer."""
    fake = {"profile": "fake", "env": ["API_KEY"], **worker}
    return tables(**{"agents.worker": fake, "agents.reviewer": {"profile": "fake"}})


@pytest.fixture(scope="module")
def fakes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SpokeNode]:
    place = tmp_path_factory.mktemp("fakes")
    skill = place / "build-1" / "skills" / "greet"
    skill.mkdir(parents=True)
    (skill / "SKILL.md").write_text("# Greet")
    env = {"FAKE_RECORD": str(place / "build-1.executions"), "API_KEY": SECRET}
    with SpokeNode(place, toml=faking(), env=env) as node:
        yield node


@pytest.fixture
def boss(fakes: SpokeNode, new_hub: NewHub) -> HubPeer:
    return new_hub(fakes)


@pytest.fixture
def run(fakes: SpokeNode, boss: HubPeer, origin: Path) -> Callable[..., Any]:
    async def ended(*items: str, **changes: Any) -> dict[str, Any]:
        spawn = boss.spawn(origin, *items, **changes)
        assert "agent" in await boss.ask(fakes, spawn)
        return await fakes.until_ended(spawn["id"])

    return ended


async def test_what_it_says_and_does_comes_back(run: Any, fakes: SpokeNode) -> None:
    agent = await run("use Bash ls", "commit a.txt", "write b.txt", "spend 0.5", "say all done")
    assert (agent["status"], agent["reason"], agent["exitCode"]) == ("completed", None, 0)
    result = agent["result"]
    assert (result["summary"], result["data"]) == ("all done", {"sessionId": agent["agentId"]})
    assert result["usage"] == {"inputTokens": 10, "outputTokens": 1, "costUsd": 0.5, "turns": 1}
    assert [commit["subject"] for commit in result["commits"]] == ["Add a.txt"]
    assert result["preservedRef"]
    assert len(fakes.executions(agent["agentId"])) == 1


@pytest.mark.parametrize(
    ("items", "status", "reason", "summary"),
    [
        pytest.param(["fail API Error"], "failed", "agent_error", "API Error", id="an error, and exit code 0"),
        pytest.param(["say half", "exit 0"], "failed", "agent_error", "half", id="no word, and exit code 0"),
        pytest.param(["say half", "exit 4"], "failed", "agent_error", "half", id="no word, and another exit code"),
        pytest.param(["say fine", "lie"], "failed", "exit_nonzero", "fine", id="a good word, and exit code 3"),
        pytest.param(["signal SIGKILL"], "failed", "exit_nonzero", None, id="killed from outside"),
        pytest.param(["print {not json", "print plain", "fine"], "completed", None, "fine", id="lines that are none"),
    ],
)
async def test_success_is_what_the_program_says(
    run: Any, items: list[str], status: str, reason: str | None, summary: str | None
) -> None:
    agent = await run(*items)
    assert (agent["status"], agent["reason"]) == (status, reason)
    if summary is not None:
        assert agent["result"]["summary"] == summary


async def test_caps_of_the_operator_end_it_with_reasons_of_their_own(
    tmp_path: Path, new_hub: NewHub, origin: Path
) -> None:
    toml = faking(max_turns=2, max_cost_usd=1, model="m")
    async with SpokeNode(tmp_path, toml=toml) as node:
        hub = new_hub(node)
        for items, reason in (
            (["spend 0.5", "use Bash ls", "fine"], None),
            (["spend 0.75", "spend 0.75", "fine"], "cost_limit"),
            (["use Bash ls", "use Bash ls", "fine"], "turn_limit"),
        ):
            spawn = hub.spawn(origin, *items)
            await hub.ask(node, spawn)
            agent = await node.until_ended(spawn["id"])
            assert (agent["status"], agent["reason"]) == ("failed" if reason else "completed", reason)
            assert agent["result"]["data"] == {"sessionId": spawn["id"]}
            assert agent["result"]["usage"]["costUsd"] == {None: 0.5, "cost_limit": 1.5, "turn_limit": 0.0}[reason]


async def test_what_the_agent_wrote_itself_beats_what_it_said(run: Any) -> None:
    agent = await run('result {"summary": "mine", "data": {"a": 1}}', "say other")
    assert agent["result"]["summary"] == "mine"
    assert agent["result"]["data"] == {"sessionId": agent["agentId"], "a": 1}


async def test_the_word_counts_although_the_log_was_cut(tmp_path: Path, new_hub: NewHub, origin: Path) -> None:
    async with SpokeNode(tmp_path, toml=faking() + "\n[agents.worker.limits]\nlog_mib = 1\n") as node:
        hub = new_hub(node)
        await hub.ask(node, spawn := hub.spawn(origin, "flood 3", "say after the flood"))
        agent = await node.until_ended(spawn["id"])
        assert (agent["status"], agent["result"]["summary"]) == ("completed", "after the flood")
        assert agent["result"]["logBytes"] == 1024 * 1024


@pytest.mark.attack(63)
async def test_secrets_stay_out_of_log_and_result(run: Any, fakes: SpokeNode, boss: HubPeer) -> None:
    agent = await run("environment", f"say it is {SECRET}")
    log = (await boss.ask(fakes, boss.about("logs", agent["agentId"], limit=262144)))["log"]["data"]
    assert SECRET not in log
    assert '"API_KEY": "[masked]"' in log
    assert agent["result"]["summary"] == "it is [masked]"


async def test_skills_are_in_its_home_and_not_in_its_work(
    run: Any, fakes: SpokeNode, boss: HubPeer, origin: Path
) -> None:
    spawn = boss.spawn(origin, "skills")
    spawn["context"]["skills"] = ["greet"]
    await boss.ask(fakes, spawn)
    agent = await fakes.until_ended(spawn["id"])
    assert (agent["result"]["summary"], agent["result"]["diffStat"]["files"]) == ("skills: greet", 0)


async def test_an_unknown_skill_is_refused_by_hub_and_coordinator_alike(
    fakes: SpokeNode, boss: HubPeer, origin: Path
) -> None:
    spawn = boss.spawn(origin, "skills")
    spawn["context"]["skills"] = ["greet", "dance"]
    refused = await boss.ask(fakes, spawn)
    assert (refused["error"]["code"], "dance" in refused["error"]["detail"]) == ("invalid", True)
    local = {name: spawn[name] for name in ("taskId", "agentType", "context")}
    status, problem = await fakes.call("POST", "/agents/spawn", local)
    assert (status, problem["code"]) == (400, "invalid")
    assert await fakes.agent(spawn["id"]) == {}


@pytest.mark.parametrize("items", [["write x"], ["commit x"]])
async def test_a_reviewer_that_changes_something_has_failed(run: Any, items: list[str]) -> None:
    agent = await run(*items, "looks good", agentType="reviewer")
    assert (agent["status"], agent["reason"]) == ("failed", "agent_error")
    assert agent["result"]["summary"] == "looks good"
    fine = await run("looks good", agentType="reviewer")
    assert fine["status"] == "completed"


@pytest.mark.fault(24)
@pytest.mark.attack(53)
@pytest.mark.parametrize("what", ["file", "dangling link"])
async def test_a_tree_with_what_its_program_would_obey_is_not_given_to_it(
    tmp_path: Path, new_hub: NewHub, origin: Path, what: str
) -> None:
    own = tmp_path / "build-1" / "profiles"
    own.mkdir(parents=True)
    (own / "wary.toml").write_text('extends = "fake"\nrefused_files = [".fake.yml", ".fake.json"]\n')
    toml = tables(**{"agents.worker": {"profile": "wary"}, "agents.tester": {"profile": "fake"}})
    with SpokeNode(tmp_path, toml=toml) as node:
        hub = new_hub(node)
        link = origin / ".fake.json"
        link.unlink(missing_ok=True)  # of the other case: the repository is all tests'
        if what == "file":
            link.write_text("{}")
        else:
            link.symlink_to("/nowhere")
        commit(origin, {}, "settings")
        for agent_type, status in (("worker", "failed"), ("tester", "completed")):
            spawn = hub.spawn(origin, agentType=agent_type)
            await hub.ask(node, spawn)
            agent = await node.until_ended(spawn["id"])
            assert agent["status"] == status
            assert (agent["reason"] == "workspace_failed") is (status == "failed")
            assert (".fake.json" in (agent["detail"] or "")) is (status == "failed")


async def test_nothing_that_it_started_is_left(run: Any, fakes: SpokeNode) -> None:
    before = len(fakes.processes())
    agent = await run("ignore-term", "fork 3", "escape", "grow 10", "fine")
    assert agent["status"] == "completed"
    await eventually(lambda: len(fakes.processes()) <= before, "all of it is gone")


async def test_a_kill_closes_the_input_of_one_that_listens(fakes: SpokeNode, boss: HubPeer, origin: Path) -> None:
    await boss.ask(fakes, spawn := boss.spawn(origin, "ignore-term", "sleep 600"))
    await fakes.started(spawn["id"])
    await boss.ask(fakes, boss.about("kill", spawn["id"], graceS=0))
    agent = await fakes.until_ended(spawn["id"])
    assert (agent["status"], agent["receipt"]["survivors"]) == ("killed", 0)


async def test_a_profile_is_tried_and_tells_what_it_saw(fakes: SpokeNode) -> None:
    done = await fakes.spoke("profile", "test", "fake", "--item", "use Bash ls", "--item", "say hello", "--json")
    assert done.returncode == 0, done.stderr
    assert '"summary": "hello"' in done.stdout
    assert "> Bash: ls" in done.stdout
