"""The scripts that accept compare the store themselves: nothing is taken between a loss and its being noticed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from redis.asyncio import Redis

from common.errors import EnvelopeRejected
from common.peers import Peer
from common.scripts import ScriptSet
from common.store_mark import KnownStore, StoreLost, StoreMark
from hub.agents import Agents, ReplayMark
from hub.keyspace import Keyspace
from tests.integration.spoke.queue_rig import Rig, spawn

pytestmark = [pytest.mark.fault(14), pytest.mark.attack(25)]
GENERATION, SIGNED_S = "ours", 1_795_000_000
SPOKE = Peer(instance="build-1", kind="spoke", state="active", connection=1, keys=())


@dataclass
class Side:
    """What accepts on one side, and where its store lies."""

    client: Redis
    prefix: str
    store: KnownStore
    accept: Callable[[str], Awaitable[Any]]

    async def contents(self) -> dict[bytes, bytes]:
        """All of it but the counters of rates: those go away by themselves, a second after the first envelope."""
        keys = sorted([key async for key in self.client.scan_iter(f"{self.prefix}*") if b":rate:" not in key])
        return {key: await self.client.dump(key) or b"" for key in keys}


@pytest.fixture(params=["commands", "events", "joins"])
async def side(request: pytest.FixtureRequest, valkey: Redis, key_prefix: str) -> Side:
    if request.param == "commands":
        rig = Rig(valkey, key_prefix)
        found = Side(valkey, rig.prefix, rig.queue.store, lambda jti: rig.accept(spawn(1), jti=jti))
    else:
        keys, store = Keyspace("hub-eu", key_prefix), KnownStore()
        agents = Agents(valkey, keys, ScriptSet("hub"), store)

        async def accept(jti: str) -> Any:
            mark = ReplayMark(jti, 60_000, SIGNED_S)
            return await (agents.record(SPOKE, [], 0, mark) if request.param == "events" else agents.mark(mark))

        found = Side(valkey, keys.prefix, store, accept)
    found.store.mark = StoreMark(GENERATION, 1)
    await valkey.mset({f"{found.prefix}generation": GENERATION, f"{found.prefix}accepted": 1})
    await found.accept("a")
    assert found.store.mark == StoreMark(GENERATION, 2)
    return found


@pytest.mark.parametrize(
    "lose",
    [
        pytest.param({"generation": ""}, id="emptied"),
        pytest.param({"generation": "another"}, id="another store"),
        pytest.param({"accepted": "1"}, id="an old copy"),
    ],
)
async def test_a_store_that_is_not_the_known_one_takes_nothing(side: Side, lose: dict[str, str]) -> None:
    for key, value in lose.items():
        await side.client.set(side.prefix + key, value)
    before = await side.contents()
    with pytest.raises(StoreLost):
        await side.accept("b")
    assert await side.contents() == before


async def test_the_known_one_takes_each_envelope_once_and_counts_those(side: Side) -> None:
    with pytest.raises(EnvelopeRejected) as refused:
        await side.accept("a")
    assert (refused.value.code, side.store.mark.accepted) == ("replayed", 2)
    await side.accept("b")
    assert side.store.mark.accepted == 3


async def test_what_may_have_been_accepted_before_a_loss_is_refused_by_a_hub_as_well(
    valkey: Redis, key_prefix: str
) -> None:
    store = KnownStore(60)
    agents = Agents(valkey, Keyspace("hub-eu", key_prefix), ScriptSet("hub"), store)
    store.mark = StoreMark("", 0, SIGNED_S * 1000, "emptied")
    for refused in (
        agents.mark(ReplayMark("a", 60_000, SIGNED_S + 60)),
        agents.record(SPOKE, [], 0, ReplayMark("b", 1, 0)),
    ):
        with pytest.raises(StoreLost):
            await refused
    await agents.mark(ReplayMark("a", 60_000, SIGNED_S + 61))
