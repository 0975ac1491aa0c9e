"""Attacks on the channel between a node and its machines, and by a machine on what is not its own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from redis.asyncio import Redis

from common.keyring import PublicKey, SigningKey
from spoke.machines import frames
from spoke.machines.frames import LINK_PATH, SUBPROTOCOL, Hello, Session
from spoke.machines.registry import read_key, write_key
from tests.envelopes import key_of
from tests.integration.spoke.repositories import make_repository
from tests.machine_process import MachineProcess
from tests.peer import HubPeer
from tests.spoke_node import SpokeNode, eventually, run_in_process, tables

pytestmark = pytest.mark.slow
M1, M2 = key_of(61), key_of(62)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "repository")


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[SpokeNode]:
    async with SpokeNode(tmp_path, toml=tables(limits={"agents": 8}), options=["--no-worker"]) as running:
        yield running


@pytest.fixture
def hub(node: SpokeNode) -> HubPeer:
    hub = HubPeer()
    hub.register(node)
    return hub


def add(node: SpokeNode, name: str, key: SigningKey) -> None:
    run_in_process(node.directory, "machine", "add", name, write_key(key.public))


def key_of_node(node: SpokeNode) -> PublicKey:
    return read_key(json.loads(run_in_process(node.directory, "machine", "key", "--json"))["key"])


class Dialed:
    """A link that we drive by hand."""

    def __init__(self, node: SpokeNode, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.node, self.socket = node, socket
        self.nonce = ""
        self.hello = b""

    async def read(self) -> Any:
        message = await self.socket.receive(timeout=10)
        return message.data if message.type is aiohttp.WSMsgType.TEXT else (message.data, message.extra)

    async def begin(self) -> None:
        self.nonce = frames.read_challenge((await self.read()).encode())

    async def greet(self, name: str, key: SigningKey, **changes: str) -> Any:
        """Send a HELLO; returns the node's word."""
        challenge = frames.fresh_nonce()
        hello = Hello(**{"iss": name, "aud": self.node.id, "nonce": self.nonce, "challenge": challenge, **changes})
        self.hello = frames.seal_hello(key, hello)
        await self.socket.send_str(self.hello.decode())
        self.session = Session(key, key_of_node(self.node), f"{self.nonce}.{challenge}")
        return await self.read()

    async def open(self, name: str, key: SigningKey) -> Dialed:
        await self.begin()
        word = await self.greet(name, key)
        frames.open_hello(
            frames.parse_signed(word.encode(), frames.HELLO_TYPE), key_of_node(self.node), self.session.name[44:]
        )
        return self

    async def ask(self, what: str, **about: Any) -> dict[str, Any]:
        await self.socket.send_str(self.session.seal({"ask": 1, "what": what, "about": about}).decode())
        return self.session.open((await self.read()).encode())


@asynccontextmanager
async def dialing(node: SpokeNode) -> AsyncIterator[Dialed]:
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(node.url + LINK_PATH, protocols=(SUBPROTOCOL,)) as socket,
    ):
        yield Dialed(node, socket)


def code_of(word: Any) -> str:
    return str(json.loads(word)["code"])


async def test_without_machines_there_is_nothing_to_dial(node: SpokeNode) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        async with dialing(node):
            pass
    assert refused.value.status == 404


async def test_only_a_registered_key_under_its_own_name_opens_a_channel(node: SpokeNode, hub: HubPeer) -> None:
    add(node, "m1", M1)
    add(node, "m2", M2)
    for name, key, code in (
        ("m1", key_of(63), "bad_signature"),
        ("m1", hub.key, "bad_signature"),
        ("m1", M2, "wrong_audience"),
    ):
        async with dialing(node) as link:
            await link.begin()
            assert code_of(await link.greet(name, key)) == code
    async with dialing(node) as link:
        await link.begin()
        assert code_of(await link.greet("m1", M1, aud="build-2")) == "wrong_audience"
    async with dialing(node) as link:
        await link.open("m1", M1)
        assert (await link.ask("rules"))["told"]["agents"] == 8


async def test_a_hello_that_was_recorded_opens_nothing(node: SpokeNode) -> None:
    add(node, "m1", M1)
    async with dialing(node) as link:
        await link.open("m1", M1)
    async with dialing(node) as again:
        await again.begin()
        await again.socket.send_str(link.hello.decode())
        assert code_of(await again.read()) == "replayed"


async def test_what_hubs_and_machines_sign_is_nothing_to_the_other(node: SpokeNode, hub: HubPeer) -> None:
    add(node, "m1", M1)
    async with dialing(node) as link:
        await link.begin()
        await link.socket.send_str(hub.seal(node, hub.about("status", "0199aaaa-0000-7000-8000-000000000000")).decode())
        assert code_of(await link.read()) == "malformed"
    async with dialing(node) as link:
        await link.open("m1", M1)
        answer = await hub.post(node, link.session.seal({"ask": 1, "what": "rules", "about": {}}))
        assert (answer.status, answer.code) == (400, "malformed")
    with pytest.raises(Exception, match="a key of its own"):
        add(node, "m3", hub.key)


@pytest.mark.parametrize("how", ["twice", "skipped", "back to its sender", "of another session", "by another"])
async def test_a_frame_that_is_not_the_next_of_its_session_ends_the_channel(node: SpokeNode, how: str) -> None:
    add(node, "m1", M1)
    async with dialing(node) as link, dialing(node) as other:
        await link.open("m1", M1)
        rules = {"ask": 1, "what": "rules", "about": {}}
        frame = link.session.seal(rules)
        await link.socket.send_str(frame.decode())
        answer = await link.read()
        if how == "skipped":
            link.session.seal(rules)
            frame = link.session.seal(rules)
        elif how == "back to its sender":
            frame = answer.encode()
        elif how == "of another session":
            await other.begin()
            frame = Session(M1, key_of_node(node), f"{other.nonce}.{other.nonce}", sent=1).seal(rules)
        elif how == "by another":
            frame = Session(M2, key_of_node(node), link.session.name, sent=1).seal(rules)
        await link.socket.send_str(frame.decode())
        assert (await link.read())[0] == 1008


async def held_by(node: SpokeNode, worker: str, agent_id: str) -> dict[str, Any]:
    """Have an agent claimed in the store under a worker's name; returns the lease."""
    async with Redis(unix_socket_path=str(node.directory / "valkey" / "valkey.sock")) as store:
        prefix, tenant = f"hs:{{{node.id}}}:", "hub-eu_1"
        key = f"{prefix}agent:{tenant}:{agent_id}"
        await store.zrem(f"{prefix}queue:{tenant}", agent_id)
        await store.zadd(f"{prefix}leases", {f"{tenant} {agent_id}": 2**42})
        await store.hset(key, mapping={"worker": worker, "token": "7", "status": "spawning", "attempt": "1"})
    return {"tenant": tenant, "agent": agent_id, "token": "7", "attempt": 1}


async def test_a_machine_gets_the_word_for_its_own_leases_only_and_an_attempt_has_one_place(
    node: SpokeNode, hub: HubPeer, repository: Path
) -> None:
    add(node, "m1", M1)
    add(node, "m2", M2)
    (result,) = await hub.send(node, hub.spawn(repository, "exit 0"))
    agent = result["agent"]["agentId"]
    lease = await held_by(node, "@m1_1/there:life", agent)
    async with dialing(node) as first, dialing(node) as second:
        await first.open("m1", M1)
        await second.open("m2", M2)
        for what in ("prove", "start"):
            assert (await second.ask(what, **lease))["error"]["code"] == "not_allowed"
            assert (await first.ask(what, **{**lease, "token": "8"}))["error"]["code"] == "lease_lost"
            assert (await first.ask(what, **{**lease, "attempt": 2}))["error"]["code"] == "lease_lost"
        assert (await first.ask("prove", **lease))["told"]["owner"]["instance"] == hub.id
        assert "told" in await first.ask("start", **lease)
        assert "told" in await first.ask("start", **lease), "asked again after a lost answer it is the same"
        # Somebody who writes to the store hands the same attempt to another.
        await held_by(node, "@m2_2/there:life", agent)
        assert (await second.ask("start", **lease))["error"]["code"] == "not_allowed"
        assert (await second.ask("start", **{**lease, "agent": "no-id"}))["error"]["code"] == "malformed"
        assert (await second.ask("give me more"))["error"]["code"] == "not_allowed"


@pytest.mark.attack(61)
async def test_what_somebody_wrote_into_the_queue_is_started_on_no_machine(
    node: SpokeNode, hub: HubPeer, repository: Path
) -> None:
    await node.call("POST", "/queue/pause", {"on": True})
    results = await hub.send(node, hub.spawn(repository, "exit 0"), hub.spawn(repository, "print x"))
    changed, swapped = (result["agent"]["agentId"] for result in results)
    async with Redis(unix_socket_path=str(node.directory / "valkey" / "valkey.sock")) as store:
        prefix = f"hs:{{{node.id}}}:agent:hub-eu_1:"
        await store.hset(prefix + changed, mapping={"hash": "0" * 64})
        await store.hset(prefix + swapped, mapping={"index": "0"})
    async with MachineProcess(node, "m1"):
        await node.call("POST", "/queue/pause", {"on": False})
        for agent in (changed, swapped):
            found = await node.until_ended(agent)
            assert (found["status"], found["reason"]) == ("failed", "tampered")
    assert node.executions() == []


@pytest.mark.attack(61)
@pytest.mark.parametrize(
    "tampered", [{"hash": "0" * 64}, {"env": "0199aaaa-0000-7000-8000-000000000000"}], ids=["content", "envelope"]
)
async def test_the_node_itself_gives_no_word_for_what_nobody_signed(
    node: SpokeNode, hub: HubPeer, repository: Path, tampered: dict[Any, Any]
) -> None:
    """The machine would find it out as well: here is one that does not look, or says so."""
    add(node, "m1", M1)
    (result,) = await hub.send(node, hub.spawn(repository, "exit 0"))
    lease = await held_by(node, "@m1_1/there:life", agent := result["agent"]["agentId"])
    async with Redis(unix_socket_path=str(node.directory / "valkey" / "valkey.sock")) as store:
        await store.hset(f"hs:{{{node.id}}}:agent:hub-eu_1:{agent}", mapping=tampered)
    async with dialing(node) as link:
        await link.open("m1", M1)
        for what in ("prove", "start"):
            assert (await link.ask(what, **lease))["error"]["code"] == "tampered"
    assert not (node.directory / "places.db").exists(), "no place was noted for it"


async def test_a_machine_believes_nobody_but_the_node_whose_key_it_was_given(
    node: SpokeNode, hub: HubPeer, repository: Path
) -> None:
    machine = MachineProcess(node, "m1")
    settings = machine.directory / "spoke.toml"
    settings.write_text(settings.read_text().replace(write_key(key_of_node(node)), write_key(key_of(64).public)))
    machine.register()
    await asyncio.to_thread(machine.start, wait=False)
    try:
        await hub.send(node, hub.spawn(repository, "exit 0"))
        await eventually(lambda: machine.log_lines("machine.cannot_reach_node"), "it refuses what answers there")
        assert not machine.is_ready()
        assert node.executions() == []
    finally:
        await machine.end()
