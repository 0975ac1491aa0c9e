"""The content of a real embedded server at one moment, and a server that begins with it."""

from __future__ import annotations

import resource
import shutil
from pathlib import Path

import pytest

from common.embedded_valkey import EmbeddedValkey
from common.errors import Unavailable
from common.valkey import connect
from common.valkey_snapshot import adopt_snapshot, place_of_snapshot, take_snapshot


async def test_a_server_begins_with_what_another_held(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    async with EmbeddedValkey(first), connect(first) as client:
        await client.set("before", "1")
        with await take_snapshot(first) as snapshot:
            await client.set("after", "1")
            place = place_of_snapshot(second)
            place.parent.mkdir(parents=True)
            with place.open("wb") as file:
                shutil.copyfileobj(snapshot, file)
        assert not (first / "dump.rdb").exists()
    adopt_snapshot(second)
    for _ in range(2):
        async with EmbeddedValkey(second), connect(second) as client:
            assert await client.keys() in ([b"before"], [b"before", b"own"], [b"own", b"before"])
            await client.set("own", "1")
    async with EmbeddedValkey(second), connect(second) as client:
        assert await client.mget("before", "own", "after") == [b"1", b"1", None]


async def test_it_waits_for_a_server_that_is_busy_and_not_for_ever(tmp_path: Path) -> None:
    async with EmbeddedValkey(tmp_path), connect(tmp_path) as client:
        await client.mset({f"k{number}": number for number in range(10)})
        await client.config_set("rdb-key-save-delay", 50_000)  # half a second for each save
        await client.bgsave(schedule=False)
        with pytest.raises(Unavailable, match="in progress"):
            await take_snapshot(tmp_path, busy_s=0)
        with await take_snapshot(tmp_path) as snapshot:
            assert snapshot.read(6) in (b"VALKEY", b"REDIS0")


async def test_a_snapshot_that_fails_is_told_and_the_server_goes_on(tmp_path: Path) -> None:
    async with EmbeddedValkey(tmp_path) as server, connect(tmp_path) as client:
        assert server.pid is not None
        _, hard = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (0, hard))
        with pytest.raises(Unavailable, match="could not save"):
            await take_snapshot(tmp_path)
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (hard, hard))
        assert await client.set("still", "writable")
        assert not (tmp_path / "dump.rdb").exists()
