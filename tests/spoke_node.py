"""A real `spoke serve` process for a test, and the promise that nothing of it is left afterwards.

    async with SpokeNode(tmp_path) as node:
        ...
        await node.kill9()
        await node.restart()

`toml` is what stands in `spoke.toml` after its `[node]` table; `tables()` writes one. The agents are those of
`tests/agent_program.py`: what one does is written in its work items, and each start is a line in `node.executions()`,
which no part of the spoke knows of. Leaving the block ends the node by SIGTERM and then whatever agents are left, and
fails when a process of its directory outlives that: a Valkey, a nursery, a keeper, an agent or a git.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

import aiohttp

from spoke.cli.root import spoke

AGENT_PROGRAM: Final = Path(__file__).parent / "agent_program.py"
SPOKE: Final = Path(sys.executable).parent / "spoke"
DEADLINE_S: Final = 45.0
_POLL_S: Final = 0.01


def tables(**settings: Any) -> str:
    """Return tables for `spoke.toml`: `tables(limits={"agents": 0})` is one with that member changed.

    A table with a `profile` takes the place of the one that is there.
    """
    agent = {"profile": "command", "command": [sys.executable, "-I", "-S", str(AGENT_PROGRAM)], "env": ["RECORD"]}
    merged: dict[str, dict[str, Any]] = {
        "limits": {"agents": 4},
        "agents.worker": agent,
        "agents.reviewer": {"profile": "report"},
        "agents.tester": {"profile": "command", "command": ["/nonexistent/agent"]},
        "policy": {
            "commands": ["spawn", "status", "kill", "logs"],
            "agent_types": ["worker", "reviewer", "tester"],
            "repositories": ["file:///**"],
            "agents": 100,
            "queued": 1000,
            "rate_per_s": 10_000,
        },
    }
    for name, members in settings.items():
        merged[name] = {**({} if "profile" in members else merged.get(name, {})), **members}
    # A JSON string, list or number is one of TOML.
    return "\n".join(
        "\n".join([f"[{name}]", *(f"{member} = {json.dumps(value)}" for member, value in members.items()), ""])
        for name, members in merged.items()
    )


def run_in_process(directory: Path, *arguments: str) -> str:
    """Run a command of `spoke` without a new interpreter; returns what it printed, raises what it refuses."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        spoke(["--dir", str(directory), *arguments], standalone_mode=False)
    return output.getvalue()


def until(condition: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> Any:
    """Wait, blocking, until `condition` returns something true, and return that."""
    give_up_at = time.monotonic() + deadline_s
    while not (value := condition()):
        assert time.monotonic() < give_up_at, f"waited {deadline_s:g} s in vain: {what}"
        time.sleep(_POLL_S)
    return value


async def eventually(condition: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> Any:
    """Wait until `condition` (a function, or a coroutine function) returns something true, and return that."""
    give_up_at = time.monotonic() + deadline_s
    while True:
        value = condition()
        if asyncio.iscoroutine(value):
            value = await value
        if value:
            return value
        assert time.monotonic() < give_up_at, f"waited {deadline_s:g} s in vain: {what}"
        await asyncio.sleep(_POLL_S)


def processes_of(directory: Path) -> dict[int, str]:
    """Return the command lines of all living processes that work in the directory or were told of it, by pid."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):  # it has ended, or is another user's
                if _belongs(entry, str(directory)):
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    return found


def end_agents_of(directory: Path) -> dict[int, str]:
    """Ask a directory's keepers to end their agents; returns what had to be killed because it did not go by itself."""
    for control in directory.glob("runs/*/*/*/control"):
        with contextlib.suppress(OSError):  # nobody reads there any more
            fd = os.open(control, os.O_WRONLY | os.O_NONBLOCK)
            os.write(fd, b'{"kill": {"grace_s": 0, "cause": "test_over"}}\n')
            os.close(fd)
    with contextlib.suppress(AssertionError):
        until(lambda: not processes_of(directory), "its processes end", 10)
    left = processes_of(directory)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return left


def _belongs(process: Path, directory: str) -> bool:
    if _stat(process)[0] in "ZX":
        return False
    if f"{process.joinpath('cwd').readlink()}/".startswith(f"{directory}/"):
        return True
    return directory.encode() in (process / "cmdline").read_bytes() + (process / "environ").read_bytes()


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not reaped does not."""
    with contextlib.suppress(OSError):
        return _stat(Path(f"/proc/{pid}"))[0] not in "ZX"
    return False


def parent_of(pid: int) -> int:
    """The parent's process id: of an agent, its keeper."""
    return int(_stat(Path(f"/proc/{pid}"))[1])


def arguments_of(pid: int) -> bytes:
    """The command line of a process."""
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def _stat(process: Path) -> list[str]:
    return (process / "stat").read_text().rpartition(")")[2].split()


class Go:
    """What agents wait for with `f"wait {go}"`, until `go.now()`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __str__(self) -> str:
        return str(self._path)

    def now(self) -> None:
        """Let them go on."""
        self._path.touch()


class SpokeNode:
    """One spoke below `tmp_path`; also a plain `with` for a node that many tests share."""

    def __init__(
        self,
        tmp_path: Path,
        *,
        id: str = "build-1",
        toml: str | None = None,
        env: Mapping[str, str] | None = None,
        options: Sequence[str] = (),
        program: Path = SPOKE,
    ) -> None:
        self.id = id
        self.program = program
        """What is run: of another release, it can be replaced between two starts."""
        self.directory = tmp_path / id
        self.record = tmp_path / f"{id}.executions"
        self.url = ""
        self.environment = {**os.environ, "RECORD": str(self.record), **(env or {})}
        self._options = options
        self._output = tmp_path / f"{id}.output"
        self._log = tmp_path / f"{id}.log"
        self._process: subprocess.Popen[bytes] | None = None
        initialise = ("--dir", str(self.directory), "init", id, "--listen", "127.0.0.1:0")
        if program == SPOKE:
            run_in_process(self.directory, *initialise[2:])
        else:
            subprocess.run([str(program), *initialise], check=True, capture_output=True)
        self.configure(tables() if toml is None else toml)

    # --- its life

    def configure(self, toml: str) -> None:
        """Write `spoke.toml` anew, for the next start."""
        node = f'[node]\nid = "{self.id}"\nlisten = "127.0.0.1:0"\n\n'
        (self.directory / "spoke.toml").write_text(node + toml)

    def start(self) -> None:
        """Start it and wait until it is ready."""
        assert self._process is None, "it runs already"
        self._output.write_bytes(b"")
        with self._output.open("ab") as output, self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(self.program), "--dir", str(self.directory), "serve", *self._options],
                cwd=self.directory,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log,
            )
        until(self._is_ready, "the spoke is ready")

    def _is_ready(self) -> bool:
        assert self._process is None or self._process.poll() is None, f"the spoke did not start:\n{self.log()}"
        for line in self._output.read_text().splitlines(keepends=True):
            if line.startswith("ready ") and line.endswith("\n"):
                self.url = line.split()[1]
        return self._output.read_text().startswith("ready ") and self.url != ""

    @property
    def pid(self) -> int:
        """The process id of `spoke serve`."""
        assert self._process is not None, "it does not run"
        return self._process.pid

    def stop(self) -> int:
        """End it by SIGTERM, agents go on; returns the exit status."""
        return self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> int:
        process, self._process = self._process, None
        assert process is not None, "it does not run"
        process.send_signal(number)
        self.url = ""
        try:
            return process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"the spoke did not end on {number.name}:\n{self.log()}") from None

    async def terminate(self) -> int:
        """Do what `stop` does while the test's own tasks go on."""
        return await asyncio.to_thread(self.stop)

    async def kill9(self) -> None:
        """Kill it with -9 and wait until it is gone; its Valkey follows by itself."""
        await asyncio.to_thread(self._end, signal.SIGKILL)

    async def restart(self, toml: str | None = None) -> None:
        """Start it again on the same directory, after ending it by SIGTERM if it still runs."""
        if self._process is not None:
            await self.terminate()
        if toml is not None:
            self.configure(toml)
        await asyncio.to_thread(self.start)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.end_everything()
            raise
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        status = 0 if self._process is None else self.stop()
        left = self.end_everything()
        if kind is None:
            assert status == 0, f"the spoke ended with {status}:\n{self.log()}"
            assert left == {}, "processes outlived the spoke and its agents"

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.__enter__)

    async def __aexit__(self, kind: object, *_: object) -> None:
        await asyncio.to_thread(self.__exit__, kind)

    def end_everything(self) -> dict[int, str]:
        """Ask keepers to end their agents; returns what had to be killed because it did not go by itself."""
        if self._process is not None:
            self._end(signal.SIGKILL)
        return end_agents_of(self.directory)

    # --- looking at it

    def log(self) -> str:
        """What it wrote to stderr, over all its lives."""
        return self._log.read_text()

    def log_lines(self, event: str) -> list[dict[str, Any]]:
        """Return its log entries of one event."""
        lines = [json.loads(line) for line in self.log().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == event]

    def executions(self, agent_id: str | None = None) -> list[dict[str, Any]]:
        """Return the starts of agents, in order: `agentId`, `attempt`, `pid`."""
        lines = self.record.read_text().splitlines() if self.record.exists() else []
        starts = [json.loads(line) for line in lines]
        return [start for start in starts if agent_id in (None, start["agentId"])]

    async def started(self, agent_id: str) -> int:
        """Wait until the agent's program runs and its status says so; returns its process id."""
        await eventually(lambda: self.executions(agent_id), f"{agent_id} is started")
        await self.until(agent_id, "running")
        pid: int = self.executions(agent_id)[-1]["pid"]
        return pid

    def processes(self) -> dict[int, str]:
        """Return the living processes of its directory, its own among them."""
        return processes_of(self.directory)

    @property
    def token(self) -> str:
        """The token of its local API."""
        return (self.directory / "local.token").read_text().strip()

    async def call(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Ask its local API with the token (unless `headers` say otherwise); returns status and JSON."""
        sent = {"Authorization": f"Bearer {self.token}"} if headers is None else headers
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(DEADLINE_S)) as session,
            session.request(method, self.url + path, json=body, headers=sent) as response,
        ):
            return response.status, await response.json(content_type=None)

    async def agent(self, agent_id: str) -> dict[str, Any]:
        """Return an agent as its operator sees it; empty when there is none."""
        status, document = await self.call("GET", f"/agents/{agent_id}/status")
        return document if status == 200 else {}

    async def agents(self) -> list[dict[str, Any]]:
        """Return all agents, the newest first."""
        _, document = await self.call("GET", "/agents?limit=1000")
        found: list[dict[str, Any]] = document["agents"]
        return found

    async def until(self, agent_id: str, *statuses: str) -> dict[str, Any]:
        """Wait until the agent is in one of these states, and return it."""
        seen: dict[str, Any] = {}

        async def reached() -> dict[str, Any] | None:
            nonlocal seen
            seen = await self.agent(agent_id)
            return seen if seen.get("status") in statuses else None

        try:
            found: dict[str, Any] = await eventually(reached, f"{agent_id} is {' or '.join(statuses)}")
        except AssertionError as error:
            raise AssertionError(f"{error}; last seen: {seen}\n{self.log()[-4000:]}") from None
        return found

    async def until_ended(self, agent_id: str) -> dict[str, Any]:
        """Wait until the agent is in a terminal state, and return it."""
        return await self.until(agent_id, "completed", "failed", "killed")

    async def spoke(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run the real command line on its directory."""
        command: Sequence[str] = [str(self.program), "--dir", str(self.directory), *arguments]
        return await asyncio.to_thread(
            subprocess.run, command, env=self.environment, input=stdin, capture_output=True, text=True, timeout=60
        )
