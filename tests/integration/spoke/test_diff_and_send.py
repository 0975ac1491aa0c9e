"""What an agent has changed, as a patch; and telling a running agent more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.spoke.repositories import git
from tests.peer import HubPeer, new_id
from tests.spoke_node import SpokeNode, eventually, tables

NewHub = Callable[[SpokeNode], HubPeer]
COMMANDS = ["spawn", "status", "kill", "logs", "diff", "send"]


@pytest.fixture(scope="module")
def fakes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SpokeNode]:
    place = tmp_path_factory.mktemp("fakes")
    fake = {"agents.worker": {"profile": "fake"}, "agents.tester": {"profile": "report"}}
    toml = tables(**fake, policy={"commands": COMMANDS})
    with SpokeNode(place, toml=toml, env={"FAKE_RECORD": str(place / "build-1.executions")}) as node:
        yield node


@pytest.fixture
def boss(fakes: SpokeNode, new_hub: NewHub) -> HubPeer:
    return new_hub(fakes)


async def patch_of(boss: HubPeer, node: SpokeNode, agent_id: str, limit: int = 65536) -> str:
    text, offset, ended = "", 0, False
    while not ended:
        piece = (await boss.ask(node, boss.about("diff", agent_id, offset=offset, limit=limit)))["diff"]
        text, offset, ended = text + piece["data"], piece["nextOffset"], piece["eof"]
    return text


async def heard(boss: HubPeer, node: SpokeNode, agent_id: str, text: str) -> None:
    async def found() -> bool:
        return text in (await boss.ask(node, boss.about("logs", agent_id)))["log"]["data"]

    await eventually(found, f"the log says {text}")


def apply(origin: Path, place: Path, patch: str) -> set[str]:
    """Apply a patch to a fresh clone of the repository; return the names of the files that it changed."""
    git(origin, "clone", "-q", str(origin), str(place))
    (place.parent / "the.patch").write_text(patch)
    git(place, "apply", "--index", str(place.parent / "the.patch"))
    return set(git(place, "diff", "--cached", "--name-only").split())


class TestDiff:
    async def test_it_holds_what_was_committed_and_what_was_not(
        self, fakes: SpokeNode, boss: HubPeer, origin: Path, tmp_path: Path
    ) -> None:
        await boss.ask(fakes, spawn := boss.spawn(origin, "commit a.txt", "write b.txt", "listen"))
        await heard(boss, fakes, spawn["id"], "listening")
        running = await patch_of(boss, fakes, spawn["id"])
        assert apply(origin, tmp_path / "running", running) == {"a.txt", "b.txt"}
        await boss.ask(fakes, boss.about("send", spawn["id"], text="write c.txt"))
        agent = await fakes.until_ended(spawn["id"])
        assert agent["status"] == "completed"
        trees = f"workspaces/agents/*/{spawn['id']}/tree"
        await eventually(lambda: not list(fakes.directory.glob(trees)), "its workspace is removed")
        ended = await patch_of(boss, fakes, spawn["id"], limit=100)
        assert apply(origin, tmp_path / "ended", ended) == {"a.txt", "b.txt", "c.txt"}

    async def test_one_reading_fits_together_while_the_agent_goes_on(
        self, fakes: SpokeNode, boss: HubPeer, origin: Path, tmp_path: Path
    ) -> None:
        await boss.ask(fakes, spawn := boss.spawn(origin, "write a.txt", "listen", "listen"))
        await heard(boss, fakes, spawn["id"], "listening")
        first = (await boss.ask(fakes, boss.about("diff", spawn["id"], limit=50)))["diff"]
        assert not first["eof"]
        await boss.ask(fakes, boss.about("send", spawn["id"], text="write before-a.txt"))
        await heard(boss, fakes, spawn["id"], "heard: write before-a.txt")
        rest = (await boss.ask(fakes, boss.about("diff", spawn["id"], offset=50)))["diff"]
        assert apply(origin, tmp_path / "first", first["data"] + rest["data"]) == {"a.txt"}
        assert apply(origin, tmp_path / "next", await patch_of(boss, fakes, spawn["id"])) == {"a.txt", "before-a.txt"}
        await boss.ask(fakes, boss.about("kill", spawn["id"], graceS=0))
        await fakes.until_ended(spawn["id"])

    async def test_without_a_change_it_is_empty(self, fakes: SpokeNode, boss: HubPeer, origin: Path) -> None:
        await boss.ask(fakes, spawn := boss.spawn(origin, "say nothing"))
        await fakes.until_ended(spawn["id"])
        assert await patch_of(boss, fakes, spawn["id"]) == ""

    @pytest.mark.attack(52)
    async def test_nothing_that_the_repository_configures_runs(
        self, fakes: SpokeNode, boss: HubPeer, tmp_path: Path, origin: Path
    ) -> None:
        hostile = tmp_path / "hostile"
        git(origin, "clone", "-q", str(origin), str(hostile))
        (hostile / ".gitattributes").write_text("* diff=evil filter=evil\n")
        git(hostile, "add", ".")
        git(hostile, "commit", "-qm", "attributes")
        await boss.ask(fakes, spawn := boss.spawn(hostile, "write a.txt", "listen"))
        await heard(boss, fakes, spawn["id"], "listening")
        (tree,) = fakes.directory.glob(f"workspaces/agents/*/{spawn['id']}/tree")
        for name in ("diff.evil.textconv", "diff.evil.command", "filter.evil.clean", "core.fsmonitor"):
            git(tree, "config", name, f"touch {tmp_path}/evil; cat")
        patch = await patch_of(boss, fakes, spawn["id"])
        assert "a.txt" in patch
        assert not (tmp_path / "evil").exists()
        await boss.ask(fakes, boss.about("kill", spawn["id"], graceS=0))
        await fakes.until_ended(spawn["id"])

    async def test_only_so_many_in_one_envelope(self, fakes: SpokeNode, boss: HubPeer, origin: Path) -> None:
        await boss.ask(fakes, spawn := boss.spawn(origin, "write a.txt"))
        await fakes.until_ended(spawn["id"])
        results = await boss.send(fakes, *(boss.about("diff", spawn["id"]) for _ in range(10)))
        assert [("diff" in result, result.get("error", {}).get("code")) for result in results] == (
            [(True, None)] * 8 + [(False, "quota_exceeded")] * 2
        )

    async def test_a_patch_that_is_gone_is_not_an_empty_one(
        self, fakes: SpokeNode, boss: HubPeer, origin: Path
    ) -> None:
        await boss.ask(fakes, spawn := boss.spawn(origin, "write a.txt"))
        await fakes.until_ended(spawn["id"])
        patches = f"runs/*/{spawn['id']}/1/changes.patch"
        (patch,) = await eventually(lambda: list(fakes.directory.glob(patches)), "the patch is kept")
        trees = f"workspaces/agents/*/{spawn['id']}/tree"
        await eventually(lambda: not list(fakes.directory.glob(trees)), "its workspace is removed")
        patch.unlink()
        refused = await boss.ask(fakes, boss.about("diff", spawn["id"]))
        assert refused["error"]["code"] == "not_found"


class TestSend:
    async def test_a_message_reaches_the_running_agent_once(
        self, fakes: SpokeNode, boss: HubPeer, origin: Path
    ) -> None:
        await boss.ask(fakes, spawn := boss.spawn(origin, "listen", "say done"))
        await heard(boss, fakes, spawn["id"], "listening")
        send = boss.about("send", spawn["id"], text="commit x.txt\nsleep 0.2")
        for result in await asyncio.gather(*(boss.ask(fakes, send) for _ in range(3))):
            assert result["agent"]["agentId"] == spawn["id"]
        agent = await fakes.until_ended(spawn["id"])
        assert (agent["status"], agent["result"]["summary"]) == ("completed", "done")
        assert [commit["subject"] for commit in agent["result"]["commits"]] == ["Add x.txt"]
        assert (await boss.ask(fakes, send))["agent"]["status"] == "completed"  # sent again it is the same message
        log = (await boss.ask(fakes, boss.about("logs", spawn["id"])))["log"]["data"]
        assert log.count("heard:") == 1

    async def test_an_id_with_another_text_is_a_conflict(self, fakes: SpokeNode, boss: HubPeer, origin: Path) -> None:
        await boss.ask(fakes, spawn := boss.spawn(origin, "listen"))
        await heard(boss, fakes, spawn["id"], "listening")
        send = boss.about("send", spawn["id"], text="sleep 1")
        await boss.ask(fakes, send)
        refused = await boss.ask(fakes, {**send, "text": "other"})
        assert refused["error"]["code"] == "conflict"
        await fakes.until_ended(spawn["id"])

    async def test_the_spoke_may_be_another_one_by_then(self, tmp_path: Path, new_hub: NewHub, origin: Path) -> None:
        toml = tables(**{"agents.worker": {"profile": "fake"}}, policy={"commands": COMMANDS})
        async with SpokeNode(tmp_path, toml=toml) as node:
            hub = new_hub(node)
            await hub.ask(node, spawn := hub.spawn(origin, "listen"))
            await heard(hub, node, spawn["id"], "listening")
            await node.kill9()
            await node.restart()
            await hub.ask(node, hub.about("send", spawn["id"], text="say still here"))
            agent = await node.until_ended(spawn["id"])
            assert (agent["status"], agent["result"]["summary"]) == ("completed", "still here")

    @pytest.mark.parametrize("agent_type", ["tester", "worker"])
    async def test_who_takes_no_message_is_sent_none(
        self, fakes: SpokeNode, boss: HubPeer, origin: Path, agent_type: str
    ) -> None:
        """A report takes none; the fake one has ended."""
        await boss.ask(fakes, spawn := boss.spawn(origin, "say x", agentType=agent_type))
        await fakes.until_ended(spawn["id"])
        refused = await boss.ask(fakes, boss.about("send", spawn["id"], text="hello?"))
        assert (refused["error"]["code"], "it has ended" in refused["error"]["detail"]) == ("not_allowed", True)

    async def test_one_that_waits_is_sent_none(self, tmp_path: Path, new_hub: NewHub, origin: Path) -> None:
        toml = tables(**{"agents.worker": {"profile": "fake"}}, limits={"agents": 0}, policy={"commands": COMMANDS})
        async with SpokeNode(tmp_path, toml=toml) as node:
            hub = new_hub(node)
            await hub.ask(node, spawn := hub.spawn(origin))
            refused = await hub.ask(node, hub.about("send", spawn["id"], text="hello?"))
            assert (refused["error"]["code"], "does not run" in refused["error"]["detail"]) == ("not_allowed", True)


@pytest.mark.attack(37)
@pytest.mark.parametrize("command", ["diff", "send"])
async def test_another_hub_learns_and_does_nothing(
    fakes: SpokeNode, boss: HubPeer, new_hub: NewHub, origin: Path, command: str
) -> None:
    await boss.ask(fakes, spawn := boss.spawn(origin, "write secret.txt", "listen"))
    await heard(boss, fakes, spawn["id"], "listening")
    more: dict[str, Any] = {"text": "hello"} if command == "send" else {}
    stranger = new_hub(fakes)
    foreign = await stranger.ask(fakes, stranger.about(command, spawn["id"], **more))
    absent = await stranger.ask(fakes, stranger.about(command, new_id(), **more))
    assert foreign["error"] == absent["error"]
    assert foreign["error"]["code"] == "not_found"
    log = (await boss.ask(fakes, boss.about("logs", spawn["id"])))["log"]["data"]
    assert "heard" not in log
    await boss.ask(fakes, boss.about("kill", spawn["id"], graceS=0))
    await fakes.until_ended(spawn["id"])


async def test_the_policy_decides(shared: SpokeNode, hub: HubPeer, origin: Path) -> None:
    await hub.ask(shared, spawn := hub.spawn(origin))
    for command, more in (("diff", {}), ("send", {"text": "x"})):
        refused = await hub.ask(shared, hub.about(command, spawn["id"], **more))
        assert (refused["error"]["code"], "policy.commands" in refused["error"]["detail"]) == ("not_allowed", True)
