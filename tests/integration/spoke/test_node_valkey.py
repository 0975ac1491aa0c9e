"""A spoke on a Valkey that is not its own: used when it keeps what it acknowledges, refused otherwise."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from common.embedded_valkey import find_binary
from common.valkey import connect, translated
from tests.peer import HubPeer
from tests.spoke_node import SpokeNode, eventually, tables, until

PASSWORD = "kept-to-ourselves"
DURABLE = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction", "requirepass": PASSWORD}
StartServer = Callable[..., str]


@contextmanager
def server(directory: Path, settings: dict[str, str]) -> Iterator[str]:
    """A server of somebody else's, on a Unix socket; yields its URL."""
    directory.mkdir(exist_ok=True)
    options = [part for name, value in settings.items() for part in (f"--{name}", value)]
    socket = directory / "s"
    with (directory / "log").open("ab") as log:
        process = subprocess.Popen(
            [find_binary(), "--port", "0", "--unixsocket", socket, "--dir", directory, "--save", "", *options],
            stdout=log,
            stderr=log,
        )
    try:
        until(socket.exists, "the server listens")
        password = settings.get("requirepass", "")
        yield f"unix://:{password}@{socket}" if password else f"unix://{socket}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


@pytest.fixture
def start_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartServer]:
    with ExitStack() as stack:

        def start(directory: Path | None = None, **changes: str | None) -> str:
            settings = {**DURABLE, **{name.replace("_", "-"): value for name, value in changes.items()}}
            kept = {name: value for name, value in settings.items() if value is not None}
            return stack.enter_context(server(directory or tmp_path_factory.mktemp("v"), kept))

        yield start


def on(url: str, **valkey: Any) -> str:
    return tables(valkey={"url": url, **valkey})


@pytest.fixture
def hub() -> HubPeer:
    return HubPeer()


async def test_agents_run_with_a_durable_server(
    tmp_path: Path, start_server: StartServer, hub: HubPeer, origin: Path
) -> None:
    async with SpokeNode(tmp_path, toml=on(start_server())) as node:
        hub.register(node)
        await hub.ask(node, spawn := hub.spawn(origin))
        assert (await node.until_ended(spawn["id"]))["status"] == "completed"
        assert not (node.directory / "valkey" / "valkey.sock").exists()
        assert PASSWORD not in node.log()


@pytest.mark.fault(11)
async def test_a_server_that_restarts_is_found_again(
    tmp_path: Path, hub: HubPeer, origin: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = tmp_path_factory.mktemp("v")
    with ExitStack() as first:
        url = first.enter_context(server(place, DURABLE))
        async with SpokeNode(tmp_path, toml=on(url)) as node:
            hub.register(node)
            await hub.ask(node, running := hub.spawn(origin, "print x", "sleep 2"))
            await node.started(running["id"])
            first.close()
            raw = hub.seal(node, spawn := hub.spawn(origin))
            assert (await hub.post(node, raw)).code == "unavailable"
            with server(place, DURABLE):

                async def accepted() -> bool:
                    return (await hub.post(node, hub.seal(node, spawn))).code == "accepted"

                await eventually(accepted, "it takes envelopes again")
                for each in (running, spawn):
                    assert (await node.until_ended(each["id"]))["status"] == "completed"
                assert len(node.executions()) == 2
                await node.terminate()


NOT_DURABLE: dict[str, dict[str, str]] = {
    "no append-only file": {"appendonly": "no"},
    "fsync once a second": {"appendfsync": "everysec"},
    "evicting": {"maxmemory_policy": "allkeys-lru"},
}


@pytest.mark.parametrize("changes", NOT_DURABLE.values(), ids=NOT_DURABLE)
async def test_a_server_that_may_lose_what_it_acknowledged_is_refused(
    tmp_path: Path, start_server: StartServer, changes: dict[str, str]
) -> None:
    node = SpokeNode(tmp_path, toml=on(start_server(**changes)))
    done = await node.spoke("serve")
    assert (done.returncode, done.stdout) == (1, "")
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: valkey_not_durable: ")
    assert next(iter(changes)).replace("_", "-") in last
    assert PASSWORD not in done.stderr


@pytest.mark.slow
async def test_whoever_allows_losses_is_told_of_them_at_each_start(
    tmp_path: Path, start_server: StartServer, hub: HubPeer, origin: Path
) -> None:
    url = start_server(appendonly="no")
    node = SpokeNode(tmp_path, toml=on(url))
    doctor = await node.spoke("doctor")
    assert [line for line in doctor.stdout.splitlines() if line.startswith("bad") and "valkey" in line]
    node.configure(on(url, allow_data_loss=True))
    async with node:
        hub.register(node)
        await hub.ask(node, spawn := hub.spawn(origin))
        assert (await node.until_ended(spawn["id"]))["status"] == "completed"
        assert node.log_lines("valkey.may_lose_data")
        doctor = await node.spoke("doctor")
        assert [line for line in doctor.stdout.splitlines() if line.startswith("warn") and "valkey" in line]


@pytest.mark.attack(60)
@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("redis://192.0.2.1:6379", "valkey_open"),
        ("redis://example.org", "valkey_open"),
        ("unix:///nonexistent/socket", "unavailable"),
        ("redis://127.0.0.1:1", "unavailable"),
        ("http://127.0.0.1:6379", "valkey_url"),
        ("redis://127.0.0.1:6379?health_check_interval=0", "valkey_url"),
    ],
)
async def test_urls_that_are_refused(tmp_path: Path, url: str, code: str) -> None:
    node = SpokeNode(tmp_path, toml=on(url))
    done = await node.spoke("serve")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1].startswith(f"error: {code}: ")
    assert "Traceback" not in done.stderr
    assert node.processes() == {}


async def test_a_wrong_password(tmp_path: Path, start_server: StartServer) -> None:
    url = start_server().replace(PASSWORD, "guessed")
    node = SpokeNode(tmp_path, toml=on(url))
    done = await node.spoke("serve")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1].startswith("error: unavailable: ")
    assert "guessed" not in done.stderr


async def test_two_spokes_share_a_server_and_nothing_else(
    tmp_path: Path, start_server: StartServer, hub: HubPeer, origin: Path
) -> None:
    url = start_server()
    one, two = (SpokeNode(tmp_path, id=name, toml=on(url)) for name in ("build-1", "build-2"))
    async with one, two:
        hub.register(one)
        hub.register(two)
        spawn = hub.spawn(origin)
        await hub.ask(one, spawn)
        await one.until_ended(spawn["id"])
        assert (await hub.ask(two, hub.about("status", spawn["id"])))["error"]["code"] == "not_found"
        assert await two.agents() == []
        await hub.ask(two, spawn)
        await two.until_ended(spawn["id"])
    async with connect(url) as client:
        with translated():
            keys: Any = await client.keys("*")
        assert {key.decode().split(":")[1] for key in keys} == {"{build-1}", "{build-2}"}
