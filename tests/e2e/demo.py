"""The demo: a hub and two spokes on this machine, from invite to result, with the commands a user would type.

Everything lives in one temporary directory and is gone at the end: the nodes are stopped, their Valkeys with them,
and the demo looks at the process table before it says so. Needs no account and no network: the agents run the built-
in profile `report` on this checkout's own history, and one `command` that would run for an hour is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final

from common.logs import escape
from hub.answers import Agent
from hub.client import HubClient

CHECKOUT: Final = Path(__file__).resolve().parents[2]
BIN: Final = Path(sys.executable).parent
DEADLINE_S: Final = 120
SUMMARY_LINES: Final = 14
SLOW_AGENT: Final = "import time\nfor n in range(3600): print('still at it', n, flush=True); time.sleep(1)"
TERMINAL: Final = frozenset({"completed", "failed", "killed"})


class DemoFailed(Exception):
    """Something did not go as the demo promises."""


def say(text: str = "") -> None:
    """Print a line at once, also into a pipe."""
    print(text, flush=True)


def show(*command: str) -> None:
    """Print a command the way a user would type it."""
    say("$ " + " ".join(part if re.fullmatch(r"[\w@%+=:,./-]+", part) else f"'{part}'" for part in command))


async def run(*command: str, shown: Sequence[str] | None = None) -> str:
    """Run one of our commands and return what it printed; raises `DemoFailed` with its one line of error."""
    show(*(shown or command))
    process = await asyncio.create_subprocess_exec(
        BIN / command[0], *command[1:], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await process.communicate()
    if process.returncode:
        raise DemoFailed(err.decode().strip() or f"{command[0]} ended with {process.returncode}")
    return out.decode().strip()


@contextlib.asynccontextmanager
async def serving(command: str, directory: Path) -> AsyncIterator[str]:
    """Run `hub serve` or `spoke serve`; yields its URL, stops it in the end."""
    show(command, "--dir", directory.name, "serve")
    with (directory / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            BIN / command, "--dir", directory, "serve", stdout=subprocess.PIPE, stderr=log
        )
    try:
        assert process.stdout is not None  # a pipe was asked for
        async with asyncio.timeout(30):
            ready = (await process.stdout.readline()).decode().split()
        if ready[:1] != ["ready"]:
            raise DemoFailed(f"{command} did not start: {(directory / 'log').read_text().strip()[-500:]}")
        say(f"  {' '.join(ready)}")
        yield ready[1]
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        await process.wait()


def repository_of(scratch: Path) -> tuple[str, str]:
    """Return the file:// URL and branch of this checkout's history; a detached checkout is served from a copy."""
    git = ["git", "-C", str(CHECKOUT)]
    branch = subprocess.run([*git, "symbolic-ref", "--short", "HEAD"], capture_output=True, text=True, check=False)
    if branch.returncode == 0:
        return f"file://{CHECKOUT}", branch.stdout.strip()
    copy = scratch / "checkout.git"
    try:
        subprocess.run(["git", "clone", "--quiet", "--bare", str(CHECKOUT), str(copy)], check=True)
        subprocess.run(["git", "-C", str(copy), "branch", "--force", "demo", "HEAD"], check=True)
    except subprocess.CalledProcessError as error:
        raise DemoFailed("the demo needs a git checkout: clone the repository instead of unpacking it") from error
    return f"file://{copy}", "demo"


def configure(spoke: Path, repository: str, *, slow: bool) -> None:
    """Allow the demo's repository, and give one spoke a tester that takes an hour."""
    path = spoke / "spoke.toml"
    text = re.sub(r"(?m)^repositories = .*$", f"repositories = {json.dumps([repository])}", path.read_text())
    if slow:
        command = json.dumps([sys.executable, "-c", SLOW_AGENT])
        text = text.replace(
            '[agents.tester]\nprofile = "report"', f'[agents.tester]\nprofile = "command"\ncommand = {command}'
        )
    path.write_text(text)


async def join(hub: Path, name: str, repository: str, *, slow: bool) -> Path:
    """Set up a spoke and join it by an invite."""
    spoke = hub.parent / name
    port = await free_port()
    await run("spoke", "--dir", str(spoke), "init", name, "--listen", f"127.0.0.1:{port}", "--url", f"http://127.0.0.1:{port}",
              shown=("spoke", "--dir", name, "init", name, "--url", f"http://127.0.0.1:{port}"))  # fmt: skip
    configure(spoke, repository, slow=slow)
    invite = await run("hub", "--dir", str(hub), "invite", shown=("hub", "--dir", "hub", "invite"))
    await run("spoke", "--dir", str(spoke), "join", invite, shown=("spoke", "--dir", name, "join", f"{invite[:24]}…"))
    return spoke


async def free_port() -> int:
    """Return a port that was free just now."""
    server = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    return port


async def spawn(hub: Path, spoke: str, kind: str, item: str, repository: tuple[str, str]) -> str:
    """Ask for an agent; returns its id, which the hub knows before anything is sent."""
    url, branch = repository
    options = ("--type", kind, "--repo", url, "--branch", branch, "--item", item)
    return await run(
        "hub", "--dir", str(hub), "spawn", spoke, *options, shown=("hub", "--dir", "hub", "spawn", spoke, *options)
    )


class Watch:
    """Prints each agent's transitions as they come; agents may be added while it runs."""

    def __init__(self, client: HubClient) -> None:
        self._client = client
        self._started = time.monotonic()
        self.names: dict[str, str] = {}
        self.seen: dict[str, Agent] = {}

    async def until(self, states: Sequence[frozenset[str]]) -> None:
        """Watch until there are as many agents as `states` and each, in the order added, is in one of its states."""
        async with asyncio.timeout(DEADLINE_S):
            while not self._reached(states):
                for agent in list(self.names):
                    await self._look(agent)
                await asyncio.sleep(0.03)

    def _reached(self, states: Sequence[frozenset[str]]) -> bool:
        statuses = [self.seen[agent]["status"] for agent in self.names if agent in self.seen]
        return len(statuses) == len(states) and all(map(frozenset.__contains__, states, statuses))

    async def _look(self, agent: str) -> None:
        status = await self._client.agent(agent)
        if agent not in self.seen or status["status"] != self.seen[agent]["status"]:
            say(f"  {time.monotonic() - self._started:5.1f} s  {self.names[agent]:<24} {status['status']}")
        self.seen[agent] = status


def report(name: str, status: Agent) -> None:
    """Print what an agent did."""
    result = status["result"] or {}
    say(f"\n{name}: {status['status']}")
    for line in str(result.get("summary") or "").splitlines()[:SUMMARY_LINES]:
        say(f"    {escape(line)[:110]}")
    for commit in result.get("commits", []):
        say(f"    commit {commit['sha'][:12]} {escape(commit['subject'])}")
    if status["status"] != "completed":
        raise DemoFailed(f"{name} ended {status['status']}: {status['reason']}")


async def story(scratch: Path) -> None:
    """The main job, from nothing to results and a kill."""
    hub = scratch / "hub"
    repository = repository_of(scratch)
    say("# a hub\n")
    await run("hub", "--dir", str(hub), "init", "hub-eu", "--listen", f"127.0.0.1:{await free_port()}",
              shown=("hub", "--dir", "hub", "init", "hub-eu"))  # fmt: skip
    async with serving("hub", hub) as url:
        say("\n# two spokes, joined by invites\n")
        first = await join(hub, "build-1", repository[0], slow=False)
        second = await join(hub, "build-2", repository[0], slow=True)
        async with serving("spoke", first), serving("spoke", second):
            token = (hub / "admin.token").read_text().strip()
            async with HubClient(url, token) as client:
                await work(hub, client, repository)
        say("\n# all nodes stop")


async def work(hub: Path, client: HubClient, repository: tuple[str, str]) -> None:
    """Spawn four agents, show their ways, print their results, kill the one that would not end."""
    say("\n# a worker, a reviewer and a tester, and a tester that would take an hour\n")
    wanted = (
        ("build-1", "worker", "signed envelopes"),
        ("build-2", "reviewer", "leases and fencing tokens"),
        ("build-1", "tester", "flaky tests"),
        ("build-2", "tester", "run for an hour"),
    )
    watch = Watch(client)
    async with asyncio.TaskGroup() as group:
        group.create_task(watch.until([TERMINAL, TERMINAL, TERMINAL, frozenset({"running"})]))
        for spoke, kind, item in wanted:
            watch.names[await spawn(hub, spoke, kind, item, repository)] = f"{kind} on {spoke}"
    *quick, slow = watch.names
    for agent in quick:
        report(watch.names[agent], watch.seen[agent])
    say("\n# the one that would not end\n")
    await run("hub", "--dir", str(hub), "kill", slow, shown=("hub", "--dir", "hub", "kill", slow))
    await watch.until([TERMINAL] * len(wanted))
    killed = watch.seen[slow]
    say(f"    {killed['status']}, {killed['reason']}; receipt: {json.dumps(killed['receipt'])}")
    if killed["status"] != "killed" or (killed["receipt"] or {}).get("survivors") != 0:
        raise DemoFailed("the kill did not end everything")


def left_behind(scratch: Path) -> list[str]:
    """Return the processes that still have to do with the demo's directory."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal() and int(process.name) != os.getpid():
            with contextlib.suppress(OSError):
                words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                if str(scratch) in words or str((process / "cwd").readlink()).startswith(str(scratch)):
                    found.append(f"{process.name} {words}")
    return found


def main() -> int:
    """Run the demo; 0 when all of it worked and nothing is left."""
    scratch = Path(tempfile.mkdtemp(prefix="hubspoke-demo-"))
    started = time.monotonic()
    try:
        asyncio.run(story(scratch))
        if left := left_behind(scratch):
            raise DemoFailed(f"left running: {'; '.join(left)}")
    except DemoFailed as error:
        say(f"demo failed: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted; all nodes were stopped")
        return 130
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    say(f"nothing is left running; the demo took {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
