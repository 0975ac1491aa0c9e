"""SIGHUP to real nodes: what changes, what keeps its value, and that agents do not notice."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.envelopes import SPOKE_KEY
from tests.integration.hub.hub_node import HUB, HubNode, spawn_request
from tests.integration.spoke.repositories import make_repository
from tests.peer import HubPeer
from tests.spoke_node import DEADLINE_S, SpokeNode, eventually, tables, until

NODES = {"hub": HubNode, "spoke": SpokeNode}
Node = HubNode | SpokeNode


def settings_of(node: Node) -> Path:
    return node.directory / ("hub.toml" if isinstance(node, HubNode) else "spoke.toml")


async def hang_up(node: Node, event: str) -> dict[str, Any]:
    """Send SIGHUP and return the log entry that it leads to."""
    before = len(node.log_lines(event))
    os.kill(node.pid, signal.SIGHUP)
    await eventually(lambda: len(node.log_lines(event)) > before, event)
    return node.log_lines(event)[-1]


def change(node: Node, old: str, new: str) -> None:
    text = settings_of(node).read_text()
    assert old in text
    settings_of(node).write_text(text.replace(old, new))


# --- a hub -------------------------------------------------------------------------------------------------


async def test_a_hub_takes_new_bounds_and_says_what_it_does_not_take(tmp_path: Path) -> None:
    with HubNode(tmp_path, toml="[outbox]\nlimit = 1\n") as hub:
        hub.add_peer("build-1", SPOKE_KEY.public, "http://127.0.0.1:1")

        async def spawn() -> int:
            return (await hub.call("POST", "/api/v1/agents", spawn_request("build-1")))[0]

        assert [await spawn(), await spawn()] == [202, 503]
        change(hub, "limit = 1", "limit = 2")
        change(hub, "127.0.0.1:0", "127.0.0.1:9")
        assert (await hang_up(hub, "settings.reloaded"))["changed"] == ["outbox.limit"]
        assert hub.log_lines("settings.need_restart")[-1]["settings"] == ["node.listen"]
        assert [await spawn(), await spawn()] == [202, 503]


BAD = {
    "no TOML": ("[outbox]", "[outbox"),
    "an unknown member": ("limit = 1", "limits = 2"),
    "a value out of bounds": ("limit = 1", "limit = 0"),
    "a log that cannot be written": ("limit = 1", 'limit = 2\n[log]\nfile = "missing/hub.log"'),
}


async def test_a_bad_file_changes_nothing_and_the_reason_is_one_line(tmp_path: Path) -> None:
    with HubNode(tmp_path, toml="[outbox]\nlimit = 1\n") as hub:
        hub.add_peer("build-1", SPOKE_KEY.public, "http://127.0.0.1:1")
        good = settings_of(hub).read_text()
        for old, new in BAD.values():
            change(hub, old, new)
            entry = await hang_up(hub, "settings.not_reloaded")
            assert entry["code"] in ("config", "log_file")
            assert "\n" not in entry["reason"]
            settings_of(hub).write_text(good)
        settings_of(hub).unlink()
        assert "there is no" in (await hang_up(hub, "settings.not_reloaded"))["reason"]
        statuses = [(await hub.call("POST", "/api/v1/agents", spawn_request("build-1")))[0] for _ in range(2)]
        assert statuses == [202, 503]
        assert not hub.log_lines("settings.reloaded")
        assert "Traceback" not in hub.log()


# --- a spoke -----------------------------------------------------------------------------------------------


async def test_a_spoke_takes_a_new_policy_and_more_agents_at_once(tmp_path: Path) -> None:
    toml = tables(limits={"agents": 0}, policy={"commands": ["spawn", "status", "kill"]})
    origin = make_repository(tmp_path / "repository")
    async with SpokeNode(tmp_path, toml=toml) as node:
        hub = HubPeer()
        hub.register(node)
        await hub.ask(node, waiting := hub.spawn(origin))
        assert (await node.agent(waiting["id"]))["status"] == "queued"
        assert (await hub.ask(node, hub.about("logs", waiting["id"])))["error"]["code"] == "not_allowed"
        node.configure(tables())
        assert (await hang_up(node, "settings.reloaded"))["changed"] == ["limits.agents", "policy"]
        assert (await node.until_ended(waiting["id"]))["status"] == "completed"
        assert "log" in await hub.ask(node, hub.about("logs", waiting["id"]))


async def test_agents_that_run_are_concluded_by_what_they_were_started_with(tmp_path: Path) -> None:
    allowed = {"commands": ["spawn", "status", "kill", "logs", "send"]}
    fake = tables(**{"agents.worker": {"profile": "fake"}}, policy=allowed)
    origin = make_repository(tmp_path / "repository")
    async with SpokeNode(tmp_path, toml=fake) as node:
        hub = HubPeer()
        hub.register(node)
        await hub.ask(node, before := hub.spawn(origin, "listen"))
        await node.until(before["id"], "running")
        node.configure(tables(policy=allowed))
        assert (await hang_up(node, "settings.reloaded"))["changed"] == ["agents"]
        # It says that it failed and exits with 0: only who knows its profile takes that for a failure.
        await hub.ask(node, hub.about("send", before["id"], text="fail out of ideas"))
        ended = await node.until_ended(before["id"])
        assert (ended["status"], ended["reason"], ended["attempt"]) == ("failed", "agent_error", 1)
        await hub.ask(node, after := hub.spawn(origin, "print from the other program"))
        assert (await node.until_ended(after["id"]))["status"] == "completed"
        assert [start["agentId"] for start in node.executions()] == [after["id"]]


async def test_a_bad_profile_changes_nothing_of_a_spoke(tmp_path: Path) -> None:
    origin = make_repository(tmp_path / "repository")
    async with SpokeNode(tmp_path) as node:
        hub = HubPeer()
        hub.register(node)
        for worker in ({"profile": "nothing"}, {"profile": "command"}):
            node.configure(tables(**{"agents.worker": worker}, limits={"agents": 0}))
            assert (await hang_up(node, "settings.not_reloaded"))["code"] == "config"
        await hub.ask(node, spawn := hub.spawn(origin))
        assert (await node.until_ended(spawn["id"]))["status"] == "completed"


# --- the log -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", NODES)
async def test_the_log_goes_on_in_a_new_file_and_at_another_level(tmp_path: Path, kind: str) -> None:
    node: Node = NODES[kind](tmp_path)
    with settings_of(node).open("a") as file:
        file.write('\n[log]\nfile = "node.log"\n')
    log, former = node.directory / "node.log", node.directory / "node.log.1"
    with node:
        log.rename(former)
        os.kill(node.pid, signal.SIGHUP)
        await eventually(log.exists, "a new file")
        change(node, 'file = "node.log"', 'file = "node.log"\nlevel = "warning"')
        change(node, "[node]", "[node]\nskew_s = 1")  # a warning tells when it has been read
        os.kill(node.pid, signal.SIGHUP)
        await eventually(lambda: "settings.need_restart" in _events(log), "a warning")
    assert _events(former)[-1] == "node.ready"
    assert _events(log) == ["settings.reloaded", "settings.need_restart"]
    assert node.log() == ""


def _events(path: Path) -> list[str]:
    return [json.loads(line)["event"] for line in path.read_text().splitlines()]


@pytest.mark.deploy
def test_logrotate_itself(tmp_path: Path) -> None:
    with HubNode(tmp_path, toml='[log]\nfile = "hub.log"\n') as hub:
        snippet = (Path(__file__).parents[3] / "docs" / "logrotate" / "hubspoke").read_text().partition("\n\n")[0]
        snippet = snippet.replace("/var/lib/hub/hub.log", str(hub.directory / "hub.log")).replace(
            "su hub hub", "su root root"
        )
        command = "systemctl kill --kill-whom=main --signal=HUP hubspoke-hub.service"
        assert command in snippet
        (tmp_path / "conf").write_text(snippet.replace(command, f"kill -HUP {hub.pid}"))
        arguments = ["--force", "--state", str(tmp_path / "state"), str(tmp_path / "conf")]
        subprocess.run([str(shutil.which("logrotate")), *arguments], check=True)
        until((hub.directory / "hub.log").exists, "a new file")
        until(lambda: "settings.reloaded" in _events(hub.directory / "hub.log"), "it is written to")
        assert _events(hub.directory / "hub.log.1")[-1] == "node.ready"


def test_a_terminal_that_is_closed_ends_the_node(tmp_path: Path) -> None:
    node = HubNode(tmp_path)
    ours, theirs = pty.openpty()
    ready = tmp_path / "ready"
    with ready.open("wb") as output:
        process = subprocess.Popen(
            [str(HUB), "--dir", str(node.directory), "serve"], stdin=subprocess.DEVNULL, stdout=output, stderr=theirs
        )
    os.close(theirs)
    try:
        until(lambda: ready.read_text().endswith("\n"), "the hub is ready")
        os.close(ours)
        process.send_signal(signal.SIGHUP)
        assert process.wait(DEADLINE_S) >= 0, "it ended by itself"
    finally:
        process.kill()
        process.wait()
