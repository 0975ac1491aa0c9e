"""The embedded server: one per directory, never left behind, nothing acknowledged lost. Real servers, real signals."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis

from common.embedded_valkey import _LOG_BYTES, LOCK_NAME, LOG_NAME, EmbeddedValkey, find_binary
from common.errors import LocalError, Unavailable
from common.valkey import connect, translated
from common.valkey_connection import SOCKET_NAME

DEADLINE_S = 20.0
NODE = """\
import asyncio, sys
from pathlib import Path
from common.embedded_valkey import EmbeddedValkey

async def node():
    async with EmbeddedValkey(Path(sys.argv[1])) as server:
        print(server.pid, flush=True)
        await asyncio.Event().wait()

asyncio.run(node())
"""


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Whether the process runs; a zombie that nobody reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


@contextmanager
def node_process(directory: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A node in a process of its own, with the pid of its server."""
    with subprocess.Popen([sys.executable, "-c", NODE, str(directory)], stdout=subprocess.PIPE, text=True) as node:
        assert node.stdout is not None
        server = int(node.stdout.readline())
        try:
            yield node, server
        finally:
            node.kill()
            if is_alive(server):
                os.kill(server, signal.SIGKILL)


def pretend_server(directory: Path, script: str) -> Path:
    path = directory / "pretend-server"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def processes_in(directory: Path) -> list[int]:
    """The processes that work in a directory, which is what an embedded server does."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if entry.readlink() == directory:
                found.append(int(entry.parent.name))
        except OSError:
            continue
    return [pid for pid in found if is_alive(pid)]


def open_files() -> list[str]:
    with os.scandir("/proc/self/fd") as entries:
        return [os.path.realpath(entry.path) for entry in entries]


async def test_starts_answers_and_leaves_nothing_running(tmp_path: Path) -> None:
    server = EmbeddedValkey(tmp_path / "node" / "valkey")
    async with server, connect(server.directory) as client:
        pid = server.pid
        assert pid is not None
        assert await client.ping()
        assert stat.S_IMODE((server.directory / SOCKET_NAME).stat().st_mode) == 0o700
        assert stat.S_IMODE(server.directory.stat().st_mode) == 0o700
    assert server.pid is None
    assert not is_alive(pid)
    assert processes_in(server.directory) == []


async def test_keeps_no_snapshot_and_listens_on_no_port(tmp_path: Path) -> None:
    async with EmbeddedValkey(tmp_path) as server, connect(server.directory) as client:
        assert await client.config_get("save", "port") == {"save": "", "port": "0"}


async def test_a_clean_stop_loses_nothing_and_keeps_the_former_log(tmp_path: Path) -> None:
    async with EmbeddedValkey(tmp_path) as server, connect(server.directory) as client:
        await client.set("queue", b"\x00\xff")
    async with EmbeddedValkey(tmp_path) as server, connect(server.directory) as client:
        assert await client.get("queue") == b"\x00\xff"
    assert "bye bye" in (tmp_path / "valkey.log.1").read_text()


@pytest.mark.parametrize("length", [90, 300], ids=["near the limit of a socket path", "far over it"])
async def test_directories_may_be_long(tmp_path: Path, length: int) -> None:
    directory = tmp_path / ("d" * (length // 2)) / ("e" * (length // 2))
    async with EmbeddedValkey(directory) as server, connect(server.directory) as client:
        await client.set("here", "1")
        other = (
            "import asyncio, sys; from pathlib import Path; from common.valkey import connect\n"
            "async def read():\n"
            "    async with connect(Path(sys.argv[1])) as client: print(await client.get('here'))\n"
            "asyncio.run(read())"
        )
        command = [sys.executable, "-c", other, str(directory)]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "b'1'"


async def test_a_second_server_in_the_directory_is_refused(tmp_path: Path) -> None:
    async with EmbeddedValkey(tmp_path) as first:
        with pytest.raises(LocalError, match="another node or its Valkey runs") as refusal:
            async with EmbeddedValkey(tmp_path, lock_timeout_s=0.1):
                raise AssertionError("two writers")
        assert refusal.value.code == "valkey_locked"
        assert processes_in(tmp_path) == [first.pid]


async def test_the_server_dies_with_a_killed_node_and_the_next_node_finds_what_was_acknowledged(
    tmp_path: Path,
) -> None:
    with node_process(tmp_path) as (node, server_pid):
        async with connect(tmp_path) as client:
            await client.set("acknowledged", "yes")
        node.kill()
        async with EmbeddedValkey(tmp_path) as server, connect(server.directory) as client:
            assert not is_alive(server_pid)
            assert await client.get("acknowledged") == b"yes"


async def test_an_orphan_that_still_lives_holds_the_lock(tmp_path: Path) -> None:
    with node_process(tmp_path) as (node, server_pid):
        os.kill(server_pid, signal.SIGSTOP)
        node.kill()
        node.wait()
        with pytest.raises(LocalError) as refusal:
            async with EmbeddedValkey(tmp_path, lock_timeout_s=0.1):
                raise AssertionError("two writers")
        assert refusal.value.code == "valkey_locked"
        assert is_alive(server_pid)
        os.kill(server_pid, signal.SIGCONT)
        async with EmbeddedValkey(tmp_path) as server:
            assert server.pid != server_pid


async def test_ctrl_c_in_the_nodes_terminal_does_not_reach_the_server(tmp_path: Path) -> None:
    async with EmbeddedValkey(tmp_path) as server:
        assert server.pid is not None
        assert os.getsid(server.pid) == server.pid != os.getsid(0)


@pytest.mark.parametrize("node_is_gone", [True, False], ids=["node gone", "node there"])
async def test_the_launcher_refuses_to_start_for_a_node_that_is_gone(node_is_gone: bool) -> None:
    from common.embedded_valkey import _LAUNCHER

    parent = os.getpid() + (1 if node_is_gone else 0)
    command = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(parent), "/bin/echo", "server"]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
    assert done.stdout == ("" if node_is_gone else "server\n")
    assert done.returncode == (1 if node_is_gone else 0)


@pytest.mark.fault(11)
async def test_killed_at_a_random_moment_it_comes_back_with_everything_acknowledged(tmp_path: Path) -> None:
    reports: list[str] = []
    async with EmbeddedValkey(tmp_path) as server, connect(server.directory) as client:
        guard = asyncio.create_task(server.keep_running(reports.append))
        acknowledged: list[int] = []
        for round_ in range(3):
            writer = asyncio.create_task(write_until_refused(client, round_ * 100_000, acknowledged))
            moment = len(acknowledged) + random.randint(1, 50)
            await until(lambda moment=moment: len(acknowledged) >= moment)  # type: ignore[misc]
            assert server.pid is not None
            os.kill(server.pid, signal.SIGKILL)
            await writer
            await until_answering(client)
        stored = {int(member) for member in await client.smembers("acknowledged")}
        guard.cancel()
        await asyncio.wait([guard])
    assert set(acknowledged) <= stored
    assert len(reports) == 3, reports  # the last kill may come before the start was seen to succeed: "did not start"


async def write_until_refused(client: Redis, start: int, acknowledged: list[int]) -> None:
    for number in range(start, start + 100_000):
        try:
            with translated():
                await client.sadd("acknowledged", number)
        except Unavailable:
            return
        acknowledged.append(number)


async def until_answering(client: Redis) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            with translated():
                await client.ping()
        except Unavailable:
            assert time.monotonic() < deadline, "the server did not come back in time"
            await asyncio.sleep(0.01)
        else:
            return


async def test_a_start_that_fails_is_reported_and_tried_again(tmp_path: Path) -> None:
    reports: list[str] = []
    directory = tmp_path / "valkey"
    binary = tmp_path / "valkey-server"
    binary.symlink_to(find_binary())
    async with EmbeddedValkey(directory, binary=binary) as server, connect(directory) as client:
        guard = asyncio.create_task(server.keep_running(reports.append))
        binary.unlink()
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        await until(lambda: len(reports) >= 3)
        binary.symlink_to(find_binary())
        await until_answering(client)
        guard.cancel()
        await asyncio.wait([guard])
    assert "Valkey did not start" in reports[1]
    assert "No such file" in reports[1]


async def test_its_log_is_emptied_when_it_has_grown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.embedded_valkey._LOG_LOOK_S", 0.02)
    log = tmp_path / LOG_NAME
    async with EmbeddedValkey(tmp_path) as server, connect(server.directory) as client:
        said = log.stat().st_size
        server._bound_log()
        assert log.stat().st_size == said > 0, "what has not grown stays"
        guard = asyncio.create_task(server.keep_running(pytest.fail))
        with log.open("ab") as file:
            file.truncate(_LOG_BYTES + 1)
        await until(lambda: log.stat().st_size <= _LOG_BYTES)
        await client.ping()
        guard.cancel()
        await asyncio.wait([guard])


@pytest.mark.slow
async def test_its_append_only_file_is_written_anew_when_most_of_it_is_history(tmp_path: Path) -> None:
    async with EmbeddedValkey(tmp_path) as server, connect(server.directory) as client:
        for _ in range(200):
            await client.set("the same key", b"x" * 1024 * 1024)

        def size() -> int:
            return sum(path.stat().st_size for path in (tmp_path / "appendonlydir").iterdir())

        await until(lambda: size() < 100 * 1024 * 1024)
        assert await client.strlen("the same key") == 1024 * 1024


async def test_guarding_a_stopped_server_returns(tmp_path: Path) -> None:
    server = EmbeddedValkey(tmp_path)
    await server.keep_running(pytest.fail)


async def test_a_damaged_file_stops_the_start_with_one_line_from_the_log(tmp_path: Path) -> None:
    async with EmbeddedValkey(tmp_path) as server, connect(server.directory) as client:
        await client.set("k", "v")
    (append_only,) = (tmp_path / "appendonlydir").glob("*.incr.aof")
    append_only.write_bytes(b"*3\r\n$3\r\nSET\r\nrubbish in the middle\r\n" + append_only.read_bytes())
    with pytest.raises(LocalError, match=r"Valkey did not start: .*append only file") as failure:
        async with EmbeddedValkey(tmp_path):
            raise AssertionError("started on a damaged file")
    assert failure.value.code == "valkey_not_started"
    assert "\n" not in failure.value.message


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo first; echo; echo the last words >&2; exit 1", "the last words"),
        ("exit 1", "it logged nothing"),
        (f"rm {LOG_NAME}; exit 1", "its log cannot be read"),
    ],
    ids=["says why", "says nothing", "log removed"],
)
async def test_the_last_line_of_the_log_is_the_reason(tmp_path: Path, script: str, said: str) -> None:
    with pytest.raises(LocalError, match=said) as failure:
        async with EmbeddedValkey(tmp_path / "valkey", binary=pretend_server(tmp_path, script)):
            raise AssertionError("started without a server")
    assert failure.value.code == "valkey_not_started"


async def test_a_server_that_never_answers_is_killed_at_the_deadline(tmp_path: Path) -> None:
    directory = tmp_path / "valkey"
    binary = pretend_server(tmp_path, "exec sleep 1000")
    with pytest.raises(LocalError, match=r"did not answer within 0\.2 s"):
        async with EmbeddedValkey(directory, binary=binary, start_timeout_s=0.2):
            raise AssertionError("started without an answer")
    assert processes_in(directory) == []


_LOADS_FIRST = """\
import os, pathlib, socket, sys, time
until = time.monotonic() + 4.0
listening = socket.socket(socket.AF_UNIX)
listening.bind("valkey.sock")
listening.listen()
listening.settimeout(0.1)
while time.monotonic() < until:
    try:
        client, _ = listening.accept()
        with client:
            while asked := client.recv(65536):
                client.sendall(b"-LOADING Valkey is loading the dataset in memory\\r\\n" * asked.count(b"*"))
    except OSError:
        pass
pathlib.Path("valkey.sock").unlink()
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.slow
async def test_a_server_that_reads_a_long_file_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the deadline, which is for one that says nothing: a great store must not keep a node from starting."""
    program = tmp_path / "loads_first.py"
    program.write_text(_LOADS_FIRST)
    binary = pretend_server(tmp_path, f'exec {sys.executable} {program} {find_binary()} "$@"')
    began = time.monotonic()
    told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    told.bind(str(tmp_path / "notify"))
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    async with (
        EmbeddedValkey(tmp_path / "valkey", binary=binary, start_timeout_s=2) as server,
        connect(server.directory) as client,
    ):
        assert await client.ping()
    assert time.monotonic() - began > 4.0
    with told:
        told.setblocking(False)
        assert told.recv(100) == b"EXTEND_TIMEOUT_USEC=60000000"
        with pytest.raises(BlockingIOError):  # not at every look
            told.recv(100)


async def test_a_start_that_is_cancelled_leaves_nothing_running(tmp_path: Path) -> None:
    directory = tmp_path / "valkey"
    server = EmbeddedValkey(directory, binary=pretend_server(tmp_path, "exec sleep 1000"))
    start = asyncio.create_task(server.__aenter__())
    await until(lambda: server.pid is not None)
    start.cancel()
    await asyncio.wait([start])
    assert start.cancelled()
    assert processes_in(directory) == []
    async with EmbeddedValkey(directory, lock_timeout_s=1):
        pass


async def test_waiting_for_the_lock_can_be_cancelled(tmp_path: Path) -> None:
    async with EmbeddedValkey(tmp_path):
        wait = asyncio.create_task(EmbeddedValkey(tmp_path).__aenter__())
        await until(lambda: open_files().count(str(tmp_path / LOCK_NAME)) == 2)
        wait.cancel()
        await asyncio.wait([wait])
    async with EmbeddedValkey(tmp_path, lock_timeout_s=1):
        pass


@pytest.mark.parametrize("cancelled", [False, True], ids=["past the deadline", "cancelled while stopping"])
async def test_a_server_that_ignores_the_stop_is_killed(tmp_path: Path, cancelled: bool) -> None:
    server = EmbeddedValkey(tmp_path, stop_timeout_s=1000 if cancelled else 0.1)
    await server.__aenter__()
    pid = server.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    stop = asyncio.create_task(server.__aexit__(None, None, None))
    await until(lambda: server.pid is None)
    if cancelled:
        stop.cancel()
    await asyncio.wait([stop])
    assert not is_alive(pid)


async def test_a_directory_that_cannot_be_used_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LocalError, match=r"Valkey cannot run in .*: Not a directory") as failure:
        async with EmbeddedValkey(tmp_path / "file" / "valkey"):
            raise AssertionError("started nowhere")
    assert failure.value.code == "valkey_not_started"


async def test_a_log_that_cannot_be_kept_is_refused_and_the_lock_let_go(tmp_path: Path) -> None:
    (tmp_path / LOG_NAME).write_text("of the former start")
    (tmp_path / "valkey.log.1").mkdir()
    with pytest.raises(LocalError, match="Is a directory"):
        async with EmbeddedValkey(tmp_path):
            raise AssertionError("started without a log")
    (tmp_path / "valkey.log.1").rmdir()
    async with EmbeddedValkey(tmp_path, lock_timeout_s=1):
        pass


@pytest.mark.parametrize("package", ["no_such_package_anywhere", "json", "math"])
def test_a_missing_binary_is_refused_with_what_to_do(package: str) -> None:
    with pytest.raises(LocalError, match="install it again") as failure:
        find_binary(package)
    assert failure.value.code == "valkey_missing"
