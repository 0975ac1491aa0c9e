"""A real `hub serve` process for a test, and the promise that nothing of it is left afterwards.

with HubNode(tmp_path) as node:
    status, document = await node.call("POST", "/api/v1/agents", {...})
    await node.kill9()
    await node.restart()
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
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import aiohttp

from common.keyfiles import load_signing_key
from common.keyring import PublicKey, SigningKey
from common.peers import ConnectionState, Peer
from common.trust_store import NewPeer, TrustStore
from hub.cli import COMMANDS
from hub.cli.frame import run
from hub.settings import HubDirectory
from hub.setup import set_up
from tests.spoke_node import DEADLINE_S, eventually, processes_of, until

HUB: Final = Path(sys.executable).parent / "hub"


class HubNode:
    """One hub below `tmp_path`; a plain `with`, so that many tests may share it."""

    def __init__(self, tmp_path: Path, *, id: str = "hub-eu", toml: str = "", program: Path = HUB) -> None:
        self.id = id
        self.program = program
        """What is run: of another release, it can be replaced between two starts."""
        self.directory = tmp_path / id
        self.url = ""
        self._output = tmp_path / f"{id}.output"
        self._log = tmp_path / f"{id}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.place = HubDirectory(self.directory)
        if program == HUB:
            set_up(self.place, id, "127.0.0.1:0", None)
        else:
            initialise = ("--dir", str(self.directory), "init", id, "--listen", "127.0.0.1:0")
            subprocess.run([str(program), *initialise], check=True, capture_output=True)
        with self.place.settings_file.open("w") as file:
            file.write(f'[node]\nid = "{id}"\nlisten = "127.0.0.1:0"\n{toml}')

    # --- its life

    def start(self) -> None:
        """Start it and wait until it is ready."""
        assert self._process is None, "it runs already"
        self._output.write_bytes(b"")
        with self._output.open("ab") as output, self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(self.program), "--dir", str(self.directory), "serve"],
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log,
            )
        until(self._is_ready, "the hub is ready")

    def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"the hub did not start:\n{self.log()}"
        text = self._output.read_text()
        if text.endswith("\n"):
            self.url = text.removeprefix("ready ").strip()
        return self.url != ""

    @property
    def pid(self) -> int:
        """The process id of `hub serve`."""
        assert self._process is not None, "it does not run"
        return self._process.pid

    def end(self, number: signal.Signals) -> int:
        """Send a signal, wait until the process is gone, and return its exit status."""
        process, self._process = self._process, None
        assert process is not None, "it does not run"
        process.send_signal(number)
        self.url = ""
        try:
            return process.wait(DEADLINE_S)
        finally:
            process.kill()
            process.wait()

    async def terminate(self) -> int:
        """End it by SIGTERM while the test's own tasks go on."""
        return await asyncio.to_thread(self.end, signal.SIGTERM)

    async def kill9(self) -> None:
        """Kill it with -9; its Valkey follows by itself."""
        await asyncio.to_thread(self.end, signal.SIGKILL)

    async def restart(self) -> None:
        """Start it again on the same directory."""
        if self._process is not None:
            await self.terminate()
        await asyncio.to_thread(self.start)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        status = self.end(signal.SIGTERM) if self._process is not None else 0
        with contextlib.suppress(AssertionError):
            until(lambda: not processes_of(self.directory), "its processes end", 10)
        left = processes_of(self.directory)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if kind is None:
            assert status == 0, f"the hub ended with {status}:\n{self.log()}"
            assert left == {}, "processes outlived the hub"

    # --- looking at it

    def log(self) -> str:
        """What it wrote to stderr, over all its lives."""
        return self._log.read_text()

    def log_lines(self, event: str, **members: Any) -> list[dict[str, Any]]:
        """Return its log entries of one event that have these members."""
        lines = [json.loads(line) for line in self.log().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == event and members.items() <= line.items()]

    @property
    def key(self) -> SigningKey:
        """Its key."""
        return load_signing_key(self.place.key_file(self.id))

    @property
    def token(self) -> str:
        """The token of its admin API."""
        return self.place.token_file.read_text().strip()

    # --- its trust store, as the command line changes it beside the node

    @contextlib.contextmanager
    def trust(self) -> Any:
        """Open its trust store."""
        store = TrustStore(self.place.trust_file, self.id, self.key.public)
        try:
            yield store
        finally:
            store.close()

    def add_peer(self, instance: str, key: PublicKey, url: str | None, state: ConnectionState = "active") -> Peer:
        """Register a spoke."""
        with self.trust() as store:
            peer: Peer = store.add(NewPeer(instance, "spoke", key, url, {}), state, int(time.time()))
        return peer

    def set_state(self, instance: str, state: ConnectionState) -> None:
        """Change a spoke's connection."""
        with self.trust() as store:
            store.set_state(instance, state)

    # --- asking it

    async def call(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any]:
        """Ask its API with the token (unless `headers` say otherwise); returns status and JSON."""
        sent = {"Authorization": f"Bearer {self.token}"} if headers is None else headers
        encoded = None if body is None else io.BytesIO(json.dumps(body).encode())
        typed = {} if body is None else {"Content-Type": "application/json"}
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, self.url + path, data=encoded, headers={**typed, **sent}) as response,
        ):
            return response.status, await response.json(content_type=None)

    async def spawn(self, spoke: str, **members: Any) -> str:
        """Spawn an agent and return its id."""
        status, answer = await self.call("POST", "/api/v1/agents", spawn_request(spoke, **members))
        assert status == 202, answer
        agent_id: str = answer["agentId"]
        return agent_id

    async def agent(self, agent_id: str) -> dict[str, Any]:
        """Return an agent; empty when there is none."""
        status, document = await self.call("GET", f"/api/v1/agents/{agent_id}")
        return document if status == 200 else {}

    async def until_delivery(self, agent_id: str, state: str) -> dict[str, Any]:
        """Wait until the agent's spawn is in that state of delivery, and return the agent."""

        async def reached() -> dict[str, Any] | None:
            agent = await self.agent(agent_id)
            return agent if agent and agent["delivery"]["state"] == state else None

        found: dict[str, Any] = await eventually(reached, f"{agent_id} is {state}")
        return found

    async def hub(self, *arguments: str) -> Done:
        """Run the command line on its directory; see `run_hub`."""
        place = ("--dir", str(self.directory))
        if self.program == HUB:
            return await asyncio.to_thread(run_hub, *place, *arguments)
        return await asyncio.to_thread(run_program, self.program, *place, *arguments)


@dataclass(frozen=True, slots=True)
class Done:
    """What a command did."""

    returncode: int
    stdout: str
    stderr: str


def run_hub(*arguments: str) -> Done:
    """Run `hub` as its console script does, without a new interpreter; one at a time, it takes stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = run(COMMANDS, arguments)
    return Done(status, out.getvalue(), err.getvalue())


def run_process(*arguments: str, **environment: str) -> Done:
    """Run `hub` in a process of its own."""
    return run_program(HUB, *arguments, **environment)


def run_program(program: Path, *arguments: str, **environment: str) -> Done:
    """Run a `hub`, perhaps of another release, in a process of its own."""
    done = subprocess.run(
        [str(program), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def spawn_request(spoke: str, **members: Any) -> dict[str, Any]:
    """A good request for an agent, changed as asked."""
    context = {
        "repository": "https://git.example.org/team/app.git",
        "branch": "main",
        "workItems": ["fix the login redirect"],
        **members.pop("context", {}),
    }
    return {"spoke": spoke, "taskId": "T-1", "agentType": "worker", "context": context, **members}
