"""The clients and the durability check against real servers."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import DataError

from common.embedded_valkey import EmbeddedValkey
from common.errors import LocalError, Unavailable
from common.valkey import MAX_CONNECTIONS, check_durability, connect, connect_blocking, translated
from common.valkey_connection import SOCKET_NAME

# --- addresses -------------------------------------------------------------------------------------------

OPEN = {
    "name": "redis://valkey.internal:6379",
    "private address": "redis://10.0.0.5",
    "every interface": "redis://0.0.0.0",
    "public IPv6": "redis://[2001:db8::1]:6379/0",
    "TLS alone": "rediss://valkey.internal",
    "user without password": "redis://app@10.0.0.5",
    "empty password": "redis://:@10.0.0.5",
    "name that begins like loopback": "redis://127.0.0.1.example.org",
    "name that begins like localhost": "redis://localhost.example.org",
}


@pytest.mark.attack(60)
@pytest.mark.parametrize("url", OPEN.values(), ids=OPEN.keys())
@pytest.mark.parametrize("client", [connect, connect_blocking])
def test_an_open_server_is_refused(client: Callable[[str], Redis], url: str) -> None:
    with pytest.raises(LocalError, match="no password") as refusal:
        client(url)
    assert refusal.value.code == "valkey_open"


CLOSED = {
    "password": "redis://:secret@valkey.internal",
    "user and password over TLS": "rediss://app:secret@10.0.0.5:6380/1",
    "loopback": "redis://127.0.0.1:6379",
    "all of 127/8": "redis://127.3.2.1",
    "loopback IPv6": "redis://[::1]",
    "localhost": "redis://localhost/3",
    "unix socket": "unix:///run/valkey.sock?db=1",
}


@pytest.mark.parametrize("url", CLOSED.values(), ids=CLOSED.keys())
async def test_a_closed_or_local_server_is_accepted(url: str) -> None:
    await connect(url).aclose()


UNREADABLE = {
    "other scheme": "http://127.0.0.1",
    "no scheme": "127.0.0.1:6379",
    "bad port": "redis://127.0.0.1:99999999",
    "bad IPv6": "redis://[::1",
    "bad number": "redis://127.0.0.1?db=first",
    "no host": "redis://",
    "no path": "unix://",
    "password in the query": "redis://10.0.0.5?password=secret",
    "host in the query": "redis://127.0.0.1?host=10.0.0.5",
    "host in the query, none before": "redis://?host=10.0.0.5",
    "no host name check": "rediss://:secret@10.0.0.5?ssl_check_hostname=false",
    "empty option": "redis://127.0.0.1?retry_on_timeout=",
}


@pytest.mark.parametrize("url", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_an_address_that_cannot_be_used_is_refused_without_showing_secrets(url: str) -> None:
    with pytest.raises(LocalError) as refusal:
        connect(url)
    assert refusal.value.code == "valkey_url"
    assert "secret" not in refusal.value.message
    assert "\n" not in refusal.value.message


# --- calls -----------------------------------------------------------------------------------------------


async def test_bytes_stay_bytes(valkey: Redis, key_prefix: str) -> None:
    await valkey.set(key_prefix, b"\xff\x00")
    assert await valkey.get(key_prefix) == b"\xff\x00"


async def test_a_url_reaches_the_same_server(valkey_server: EmbeddedValkey, valkey: Redis, key_prefix: str) -> None:
    await valkey.set(key_prefix, "1")
    fd = os.open(valkey_server.directory, os.O_PATH | os.O_DIRECTORY)
    try:
        async with connect(f"unix:///proc/self/fd/{fd}/{SOCKET_NAME}") as client:
            assert await client.get(key_prefix) == b"1"
    finally:
        os.close(fd)


def open_files() -> list[str]:
    with os.scandir("/proc/self/fd") as entries:
        return [os.path.realpath(entry.path) for entry in entries]


async def test_connecting_leaves_no_descriptor_of_the_directory(valkey_server: EmbeddedValkey, valkey: Redis) -> None:
    await valkey.ping()
    assert str(valkey_server.directory) not in open_files()


async def test_only_the_blocking_client_waits_longer_than_a_call_may(
    valkey_server: EmbeddedValkey, key_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.valkey.CALL_TIMEOUT_S", 0.05)
    async with connect(valkey_server.directory) as calls, connect_blocking(valkey_server.directory) as waits:
        with pytest.raises(Unavailable, match="no answer in time"), translated():
            await calls.blpop([key_prefix], timeout=1)
        assert await waits.blpop([key_prefix], timeout=0.2) is None


async def test_pubsub_brings_its_own_timeouts(valkey_server: EmbeddedValkey, valkey: Redis, key_prefix: str) -> None:
    async with connect_blocking(valkey_server.directory) as client, client.pubsub() as subscription:
        await subscription.subscribe(key_prefix)
        assert (await subscription.get_message(timeout=5) or {})["type"] == "subscribe"
        assert await subscription.get_message(timeout=0.05) is None
        await valkey.publish(key_prefix, b"wake")
        assert (await subscription.get_message(timeout=5) or {})["data"] == b"wake"


@pytest.mark.parametrize(
    ("value", "said"),
    [(b"x", "no answer in time"), (b"x" * 2**24, "could not be sent in time")],
    ids=["waiting for the answer", "sending"],
)
async def test_a_server_that_hangs_is_unavailable_in_time_and_usable_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: bytes, said: str
) -> None:
    monkeypatch.setattr("common.valkey.CALL_TIMEOUT_S", 0.3)
    async with EmbeddedValkey(tmp_path) as server, connect(server.directory) as client:
        await client.ping()
        assert server.pid is not None
        os.kill(server.pid, signal.SIGSTOP)
        with pytest.raises(Unavailable, match=said), translated():
            await client.set("k", value)
        os.kill(server.pid, signal.SIGCONT)
        await client.set("k", b"after")
        assert await client.get("k") == b"after"


@pytest.mark.parametrize("steps", range(25))
async def test_a_cancelled_call_is_cancelled_whatever_it_was_doing(
    valkey_server: EmbeddedValkey, valkey: Redis, steps: int
) -> None:
    async def connect_and_call() -> None:
        async with connect(valkey_server.directory) as fresh:
            await fresh.ping()

    for call in (valkey.ping, connect_and_call):
        for _ in range(5):  # where a step ends depends on when the server answers
            task = asyncio.ensure_future(call())
            for _ in range(steps):
                await asyncio.sleep(0)
            asked = task.cancel()
            await asyncio.wait([task])
            assert task.cancelled() == asked
    with translated():
        assert await valkey.ping()


@asynccontextmanager
async def that_loses_replies(directory: Path, through: Path) -> AsyncIterator[list[bytes]]:
    """A socket at `through` that passes requests on, and hangs up instead of answering an LPUSH; yields those seen."""
    lost: list[bytes] = []
    served: list[asyncio.Task[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        fd = os.open(directory, os.O_PATH | os.O_DIRECTORY)
        upstream_reader, upstream_writer = await asyncio.open_unix_connection(f"/proc/self/fd/{fd}/{SOCKET_NAME}")
        os.close(fd)
        while request := await reader.read(65536):
            upstream_writer.write(request)
            answer = await upstream_reader.read(65536)
            if b"LPUSH" in request:
                lost.append(request)
                break
            writer.write(answer)
        for side in (writer, upstream_writer):
            side.close()
            await side.wait_closed()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.append(asyncio.create_task(serve(reader, writer)))

    async with await asyncio.start_unix_server(accept, through):
        yield lost
    await asyncio.gather(*served)


async def test_a_write_whose_reply_is_lost_is_not_sent_twice(
    valkey_server: EmbeddedValkey, valkey: Redis, key_prefix: str, tmp_path: Path
) -> None:
    through = tmp_path / "s"
    async with that_loses_replies(valkey_server.directory, through) as lost, connect(f"unix://{through}") as client:
        with pytest.raises(Unavailable), translated():
            await client.lpush(key_prefix, "item")
    assert len(lost) == 1
    assert await valkey.llen(key_prefix) == 1


async def test_no_server_is_unavailable(tmp_path: Path) -> None:
    for where in (tmp_path, tmp_path / "missing", f"unix://{tmp_path}/none", "redis://127.0.0.1:1"):
        async with connect(where) as client:
            with pytest.raises(Unavailable) as failure, translated():
                await client.ping()
        assert failure.value.retryable
        assert failure.value.code == "unavailable"
        assert "\n" not in failure.value.message


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [("maxmemory", "1", "OutOfMemory"), ("min-replicas-to-write", "1", "NOREPLICAS")],
    ids=["out of memory", "too few replicas"],
)
async def test_refused_writes_are_unavailable_and_it_recovers(
    tmp_path: Path, setting: str, value: str, said: str
) -> None:
    async with EmbeddedValkey(tmp_path) as server, connect(server.directory) as client:
        await client.config_set(setting, value)
        with pytest.raises(Unavailable, match=said), translated():
            await client.set("k", "v")
        await client.config_set(setting, "0")
        with translated():
            assert await client.set("k", "v")


async def test_our_own_mistakes_are_not_called_an_outage(valkey: Redis, key_prefix: str) -> None:
    with pytest.raises(DataError), translated():
        await valkey.set(key_prefix, {"a": "dict"})  # type: ignore[arg-type]  # the mistake


def test_other_exceptions_pass() -> None:
    with pytest.raises(KeyError), translated():
        raise KeyError("mine")


# --- durability ------------------------------------------------------------------------------------------

SHORTFALLS = {
    "evicts": ("maxmemory-policy", "allkeys-lru", "maxmemory-policy is allkeys-lru"),
    "evicts what expires": ("maxmemory-policy", "volatile-ttl", "maxmemory-policy is volatile-ttl"),
    "no append-only file": ("appendonly", "no", "appendonly is no: CONFIG SET appendonly yes"),
    "a second may be lost": ("appendfsync", "everysec", "appendfsync is everysec"),
    "the kernel decides": ("appendfsync", "no", "appendfsync is no"),
}


async def test_the_embedded_server_keeps_what_it_acknowledges(valkey: Redis) -> None:
    assert await check_durability(valkey, False) == ()


@pytest.mark.parametrize(("setting", "value", "said"), SHORTFALLS.values(), ids=SHORTFALLS.keys())
async def test_a_server_that_may_lose_is_refused(tmp_path: Path, setting: str, value: str, said: str) -> None:
    async with EmbeddedValkey(tmp_path) as server, connect(server.directory) as client:
        await client.config_set(setting, value)
        with pytest.raises(LocalError, match=said) as refusal:
            await check_durability(client, False)
        assert refusal.value.code == "valkey_not_durable"
        assert "\n" not in refusal.value.message
        (shortfall,) = await check_durability(client, True)
        assert said in shortfall


async def test_a_server_that_hides_its_settings_promises_nothing(tmp_path: Path) -> None:
    async with EmbeddedValkey(tmp_path) as server, connect(server.directory) as client:
        await client.acl_setuser(
            "app", enabled=True, passwords=["+secret"], keys=["*"], categories=["+@all"], commands=["-config"]
        )
        await client.auth("secret", "app")
        with pytest.raises(LocalError, match="does not let us read its CONFIG") as refusal:
            await check_durability(client, False)
        assert refusal.value.code == "valkey_not_durable"
        assert len(await check_durability(client, True)) == 1


@pytest.mark.parametrize("allow_data_loss", [False, True])
@pytest.mark.parametrize("read_only", ["yes", "no"])
async def test_a_replica_is_refused_whatever_is_allowed(tmp_path: Path, read_only: str, allow_data_loss: bool) -> None:
    async with EmbeddedValkey(tmp_path) as server, connect(server.directory) as client:
        await client.config_set("replica-read-only", read_only)
        await client.replicaof("127.0.0.1", "1")  # nobody there; the role changes at once
        with pytest.raises(LocalError, match="replica") as refusal:
            await check_durability(client, allow_data_loss)
    assert refusal.value.code == "valkey_not_durable"


async def test_a_server_that_is_away_is_unavailable_and_not_called_careless(tmp_path: Path) -> None:
    async with connect(tmp_path) as client:
        with pytest.raises(Unavailable):
            await check_durability(client, True)


async def test_more_callers_than_connections_wait_in_turn(valkey: Redis, key_prefix: str) -> None:
    answers = await asyncio.gather(*(valkey.incr(f"{key_prefix}n") for _ in range(10 * MAX_CONNECTIONS)))
    assert sorted(answers) == list(range(1, 10 * MAX_CONNECTIONS + 1))


async def test_whoever_waits_for_a_connection_is_served_before_those_who_come_later(
    valkey: Redis, key_prefix: str
) -> None:
    callers, calls, overtaken = 4 * MAX_CONNECTIONS, 0, list[int]()

    async def busy() -> None:
        nonlocal calls
        while len(overtaken) < 20:
            # Begins its next call in the moment in which the one before gave its connection back.
            await valkey.get(f"{key_prefix}0")
            calls += 1

    async def patient() -> None:
        for _ in range(20):
            before = calls
            await valkey.get(f"{key_prefix}0")
            overtaken.append(calls - before)
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(busy())
        await asyncio.sleep(0.05)
        impatient = asyncio.create_task(patient())
        await asyncio.sleep(0)
        impatient.cancel()  # who gave up waiting holds no place
        group.create_task(patient())
    assert max(overtaken) <= callers + MAX_CONNECTIONS


async def test_whoever_finds_no_connection_in_time_is_told(
    valkey_server: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.valkey.MAX_CONNECTIONS", 1)
    monkeypatch.setattr("common.valkey.CALL_TIMEOUT_S", 0.05)
    async with connect(valkey_server.directory) as client, client.client() as holding:
        await holding.get("a")
        with pytest.raises(Unavailable, match="no connection became free in time"), translated():
            await client.get("a")
        await holding.aclose(close_connection_pool=False)
        assert await client.get("a") is None


async def test_a_connection_that_cannot_be_opened_leaves_its_place(tmp_path: Path) -> None:
    async with connect(tmp_path) as client:
        for _ in range(MAX_CONNECTIONS + 1):
            with pytest.raises(Unavailable), translated():
                await client.get("a")


async def test_a_pool_that_cannot_make_a_connection_leaves_its_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with connect(tmp_path) as client:
        pool = client.connection_pool
        monkeypatch.setattr(pool, "get_available_connection", lambda: 1 / 0)
        for _ in range(MAX_CONNECTIONS + 1):
            with pytest.raises(ZeroDivisionError):
                await pool.get_connection()  # type: ignore[no-untyped-call]  # redis-py has no types there
