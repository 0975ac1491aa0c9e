"""`hub top` in a real terminal and without one, and what shells are offered."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from hub.cli.top import Seen, draw
from tests.integration.hub.hub_node import HUB, HubNode
from tests.integration.hub.standin_spoke import StandinSpoke, agent_status, new_id
from tests.spoke_node import eventually


def spoke_view(number: int) -> Any:
    return {
        "id": f"build-{number}", "state": "active", "link": {"remote": "x"}, "lastContactAt": None, "failures": 1,
        "told": {"capacity": {"agents": 4, "running": 1, "queued": 0}}, "pending": 3, "frozen": False,
        "lastError": {"code": "unavailable", "detail": "cannot reach it\x1b[2J"},
    }  # fmt: skip


def agent_view(number: int) -> Any:
    delivery = {"state": "delivered", "attempts": 1, "lastError": None}
    return {**agent_status(new_id(), "running"), "spoke": f"build-{number}", "createdAt": None, "delivery": delivery}


def rendered(seen: Seen, width: int, height: int) -> list[str]:
    console = Console(width=width, height=height, highlight=False, force_terminal=False)
    with console.capture() as captured:
        console.print(draw(seen, width, height))
    return captured.get().rstrip("\n").split("\n")


@pytest.mark.parametrize(("width", "height"), [(40, 6), (80, 24), (200, 50)])
@pytest.mark.parametrize(("spokes", "agents"), [(0, 0), (1, 1), (100, 0), (0, 100), (100, 100)])
def test_it_fits_whatever_the_terminal(width: int, height: int, spokes: int, agents: int) -> None:
    seen = Seen([spoke_view(number) for number in range(spokes)], [agent_view(number) for number in range(agents)])
    lines = rendered(seen, width, height)
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    shown = sum("build-" in line for line in lines)
    assert width < 120 or shown == min(spokes + agents, height - 4)  # narrower, names are cut short


@pytest.mark.attack(56)
def test_what_others_wrote_does_not_reach_the_terminal() -> None:
    (line,) = [line for line in rendered(Seen([spoke_view(1)], []), 200, 10) if "build-1" in line]
    assert "\x1b" not in line
    assert "cannot reach it" in line


async def test_without_a_terminal_it_is_printed_once(node: HubNode, spoke: StandinSpoke) -> None:
    agent_id = await node.spawn(spoke.id)
    await node.until_delivery(agent_id, "delivered")
    await spoke.report(spoke.advance(agent_id, "running"))
    seen = json.loads((await node.hub("top", "--json")).stdout)
    assert agent_id in [agent["agentId"] for agent in seen["agents"]]
    assert spoke.id in [peer["id"] for peer in seen["spokes"]]
    printed = await node.hub("top", "--once")
    assert (printed.returncode, spoke.id in printed.stdout, "\x1b" in printed.stdout) == (0, True, False)


@contextlib.contextmanager
def terminal(node: HubNode) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run `hub top` in a terminal of 120 by 40; yields the process and our end."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    os.set_blocking(ours, False)
    env = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES"}}
    process = subprocess.Popen(
        [str(HUB), "--dir", str(node.directory), "top"],
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, env={**env, "TERM": "xterm"},
    )  # fmt: skip
    os.close(theirs)
    try:
        yield process, ours
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def read(fd: int) -> str:
    """What was drawn since the last look."""
    with contextlib.suppress(BlockingIOError, OSError):
        return os.read(fd, 1_000_000).decode()
    return ""


@pytest.mark.parametrize("leave", ["q", "SIGINT"])
async def test_in_a_terminal_it_is_live_until_one_leaves(tmp_path: Path, leave: str) -> None:
    with HubNode(tmp_path) as node:
        async with StandinSpoke(node) as spoke:
            await watch(node, spoke, leave)


async def watch(node: HubNode, spoke: StandinSpoke, leave: str) -> None:
    agent_id = await node.spawn(spoke.id, taskId=f"top/{leave}")
    await node.until_delivery(agent_id, "delivered")
    with terminal(node) as (process, fd):
        drawn = ""

        async def shows(text: str) -> None:
            def look() -> bool:
                nonlocal drawn
                drawn += read(fd)
                return text in drawn

            await eventually(look, f"it shows {text!r}")

        await shows(f"top/{leave}")
        drawn = ""
        started = time.monotonic()
        await spoke.report(spoke.advance(agent_id, "failed", reason="agent_error"))
        await shows("agent_error")
        assert time.monotonic() - started < 4, "it was told, and did not wait for the next look"
        if leave == "q":
            os.write(fd, b"q")
        else:
            process.send_signal(signal.SIGINT)
        await eventually(lambda: process.poll() is not None, "it ends")
        drawn += read(fd)
        assert process.returncode == (0 if leave == "q" else 130)
        assert "\x1b[?1049l" in drawn, "the screen is as before"
        assert "Traceback" not in drawn


# --- completion


def complete(command: str, words: str, **env: str) -> list[str]:
    """What bash would be offered for the last of the words."""
    name = command.rpartition("/")[2]
    asked = {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" ")), f"_{name.upper()}_COMPLETE": "bash_complete"}
    done = subprocess.run([command], env={**os.environ, **asked, **env}, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


async def test_commands_options_and_ids_are_completed(node: HubNode, spoke: StandinSpoke) -> None:
    agent_id = await node.spawn(spoke.id)
    here = {"HUB_DIR": str(node.directory)}
    assert complete(str(HUB), "hub resu", **here) == ["resume"]
    assert "--follow" in complete(str(HUB), "hub logs --f", **here)
    assert agent_id in complete(str(HUB), f"hub logs {agent_id[:8]}", **here)
    assert spoke.id in complete(str(HUB), "hub peer show standin", **here)
    assert spoke.id in complete(str(HUB), "hub freeze stand", **here)
    assert complete(str(HUB), "hub logs 0", HUB_DIR="/nonexistent") == []
    assert "profile" in complete(str(HUB.with_name("spoke")), "spoke pro")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize("name", ["hub", "spoke"])
def test_each_shell_gets_its_script(name: str, shell: str) -> None:
    command = str(HUB.with_name(name))
    done = subprocess.run([command, "completion", shell], capture_output=True, text=True, check=True)
    assert f"_{name.upper()}_COMPLETE={shell}_complete" in done.stdout.replace("env ", "")
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=done.stdout, text=True, check=True)
