"""The guard over a real store: what it notices, what it leaves alone, and that it recovers by itself."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog
from redis.asyncio import Redis

from common.embedded_valkey import EmbeddedValkey
from common.errors import LocalError, Unavailable
from common.store_guard import FILE_NAME, MarkFile, StoreGuard, Watched
from common.store_mark import KnownStore, StoreLost, StoreMark
from common.valkey import connect
from tests.peer import new_id
from tests.spoke_node import eventually

NOW_MS = 1_795_000_000_000


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.ms = NOW_MS

    def now_ms(self) -> int:
        return self.ms

    def new_id(self) -> str:
        return new_id()


class Node:
    """The part of a node that guards its store."""

    def __init__(self, client: Redis, prefix: str, directory: Path) -> None:
        self.client, self.prefix = client, prefix
        self.file = MarkFile(directory)
        self.clock = Clock()
        self.recoveries: list[StoreMark] = []
        self.failures: list[Exception] = []
        self.start()

    def start(self) -> None:
        """A new life of the node on the same directory."""
        self.known = KnownStore(60)
        self.guard = StoreGuard(Watched(self.client, self.prefix, self.file), self.known, self.clock, self._recover)

    async def _recover(self) -> None:
        if self.failures:
            raise self.failures.pop()
        self.recoveries.append(self.known.mark)

    async def restart(self) -> StoreMark:
        self.start()
        await self.guard.open()
        return self.known.mark

    async def accept(self, count: int = 1) -> None:
        """What the scripts do for envelopes."""
        await self.client.incrby(f"{self.prefix}accepted", count)

    async def empty(self) -> None:
        await self.client.delete(f"{self.prefix}generation", f"{self.prefix}accepted")

    async def stored(self) -> dict[str, str]:
        found: Any = await self.client.mget(f"{self.prefix}generation", f"{self.prefix}accepted")
        return dict(zip(("generation", "accepted"), [(value or b"").decode() for value in found], strict=True))


@pytest.fixture
def node(valkey: Redis, key_prefix: str, tmp_path: Path) -> Node:
    return Node(valkey, key_prefix, tmp_path)


async def test_a_first_start_is_no_loss_and_marks_both_sides(node: Node) -> None:
    await node.guard.open()
    assert (node.known.mark.lost_ms, node.known.mark.settled, node.known.mark.accepted) == (0, True, 1)
    assert await node.stored() == {"generation": node.known.mark.generation, "accepted": "1"}
    assert node.file.read() == node.known.mark


async def test_a_restart_is_no_loss_and_a_stop_leaves_the_counter_as_it_is(node: Node) -> None:
    await node.guard.open()
    await node.accept(5)
    await node.guard.close()
    assert node.file.read() == replace(node.known.mark, accepted=6)
    before = node.known.mark
    assert await node.restart() == before


async def test_killed_before_the_first_generation_was_written_it_starts_without_a_loss(node: Node) -> None:
    node.file.write(StoreMark("ours"))
    assert await node.restart() == StoreMark("ours", accepted=1)


Change = Callable[[Node], Any]


async def _emptied(node: Node) -> None:
    await node.empty()


async def _foreign(node: Node) -> None:
    await node.client.set(f"{node.prefix}generation", "another")


async def _rolled_back(node: Node) -> None:
    await node.client.set(f"{node.prefix}accepted", 3)


async def _rubbish(node: Node) -> None:
    await node.client.set(f"{node.prefix}accepted", "many")


LOSSES = [
    pytest.param(_emptied, "emptied", id="emptied"),
    pytest.param(_foreign, "foreign", id="another store"),
    pytest.param(_rolled_back, "rolled_back", id="an old copy"),
    pytest.param(_rubbish, "rolled_back", id="a counter that is none"),
]


@pytest.mark.fault(14)
@pytest.mark.parametrize("while_running", [True, False], ids=["while it runs", "while it is stopped"])
@pytest.mark.parametrize(("change", "cause"), LOSSES)
async def test_a_loss_is_noticed_and_the_store_gets_a_new_generation(
    node: Node, change: Change, cause: str, *, while_running: bool
) -> None:
    await node.guard.open()
    await node.accept(10)
    await node.guard.look()
    before = node.known.mark
    await change(node)
    if while_running:
        await node.guard.look()
    else:
        await node.restart()
    after = node.known.mark
    assert (after.cause, after.lost_ms, after.settled) == (cause, NOW_MS, False)
    assert after.generation != before.generation
    assert await node.stored() == {"generation": after.generation, "accepted": "1"}
    assert node.file.read() == after
    with pytest.raises(StoreLost):
        node.known.check_signed(NOW_MS // 1000)
    # It is the same store from now on, and what was noticed is not forgotten.
    node.clock.ms += 1000
    await node.guard.look()
    assert node.known.mark == after
    assert await node.restart() == after


@pytest.mark.fault(14)
async def test_a_directory_that_lost_its_mark_does_not_trust_the_store(node: Node, tmp_path: Path) -> None:
    await node.guard.open()
    (tmp_path / FILE_NAME).unlink()
    assert (await node.restart()).cause == "foreign"


async def test_a_mark_that_is_none_is_refused_with_the_way_out(node: Node, tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text("7")
    with pytest.raises(LocalError) as refused:
        await node.guard.open()
    assert (refused.value.code, FILE_NAME in refused.value.message) == ("store_mark", True)


async def test_what_was_lost_is_dealt_with_until_that_succeeds_and_then_never_again(node: Node) -> None:
    await node.guard.open()
    await node.empty()
    await node.guard.look()
    node.failures = [Unavailable("not yet")]
    watching = asyncio.create_task(node.guard.watch())
    with structlog.testing.capture_logs() as lines:
        await eventually(lambda: any(line["event"] == "store.recovered" for line in lines), "it is settled")
    watching.cancel()
    assert [mark.cause for mark in node.recoveries] == ["emptied"]
    assert node.failures == []
    assert (await node.restart()).settled


async def test_a_store_that_is_away_is_waited_for(tmp_path: Path) -> None:
    async with connect(tmp_path / "valkey") as client:
        node = Node(client, "test:", tmp_path)
        async with EmbeddedValkey(tmp_path / "valkey"):
            await node.guard.open()
            watching = asyncio.create_task(node.guard.watch())
        await node.guard.close()  # says so, and keeps what it knows
        async with EmbeddedValkey(tmp_path / "valkey"):
            await node.accept()
            await eventually(lambda: node.known.mark.accepted == 2, "the counter is seen again")
        watching.cancel()
        assert node.known.mark.lost_ms == 0


@pytest.mark.fault(14)
async def test_a_loss_counts_from_when_it_was_noticed_although_the_store_takes_no_writes(node: Node) -> None:
    await node.guard.open()
    await node.empty()
    await node.client.set(f"{node.prefix}accepted", 1)
    await node.client.config_set("min-replicas-to-write", 1)  # it refuses every write from now on
    try:
        with pytest.raises(Unavailable):
            await node.guard.look()
        with pytest.raises(StoreLost):
            node.known.check_signed(NOW_MS // 1000)
        node.clock.ms += 5000
        with pytest.raises(Unavailable):
            await node.guard.look()
    finally:
        await node.client.config_set("min-replicas-to-write", 0)
    await node.guard.look()
    assert (node.known.mark.lost_ms, node.known.mark.accepted) == (NOW_MS, 1)
    assert (await node.stored())["generation"] == node.known.mark.generation


async def test_where_the_mark_cannot_be_written_nothing_changes(node: Node, tmp_path: Path) -> None:
    await node.guard.open()
    before = node.known.mark
    await node.empty()
    (tmp_path / FILE_NAME).with_suffix(".new").mkdir()
    with pytest.raises(Unavailable):
        await node.guard.look()
    assert node.known.mark == before
    assert await node.stored() == {"generation": "", "accepted": ""}


def test_a_mark_is_whole_and_for_its_owner_only(tmp_path: Path) -> None:
    MarkFile(tmp_path).write(StoreMark("ours", 7))
    assert (tmp_path / FILE_NAME).stat().st_mode & 0o777 == 0o600
    assert json.loads((tmp_path / FILE_NAME).read_bytes())["accepted"] == 7
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]
