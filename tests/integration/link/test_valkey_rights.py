"""Hub and spoke on somebody else's Valkey: by TLS, with the rights in docs/operations.md and not one more."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest
from aiohttp import ClientSession

from common.errors import HubspokeError, LocalError
from common.valkey import connect
from common.valkey_report import describe
from common.valkey_rights import Rights, check_server
from hub.rights import rights_of as hub_rights
from spoke.rights import rights_of as spoke_rights
from tests.certificates import Authority
from tests.docs.blocks import of_kind
from tests.integration.hub.hub_node import HubNode
from tests.integration.hub.receiver import Receiver
from tests.integration.link.pair import Pair, join
from tests.integration.spoke.repositories import make_repository
from tests.spoke_node import SpokeNode, eventually, tables
from tests.tls_valkey import PASSWORD, TlsValkey, command_lines

NODES: Final = {"hub-eu": hub_rights("hub-eu"), "build-1": spoke_rights("build-1")}


def documented() -> dict[str, str]:
    """Return the rules in the documentation by user, without the password."""
    (block,) = of_kind("acl")
    return dict(re.findall(r"^user (\S+) on >PASSWORD (.+)$", block.text, re.MULTILINE))


def in_scripts(node: str) -> frozenset[str]:
    """Return the commands in its scripts, some of which a run needs only where something fails."""
    return Rights.of({"hub-eu": "hub", "build-1": "spoke"}[node], "", frozenset()).commands


@pytest.mark.parametrize("node", NODES)
def test_the_documented_rule_is_what_the_node_asks_for(node: str) -> None:
    assert documented()[node] == NODES[node].rule


# --- everything a node does, with these rights ---------------------------------------------------------------


@asynccontextmanager
async def nodes_on(valkey: TlsValkey, tmp_path: Path) -> AsyncIterator[Pair]:
    hub_toml = f"[valkey]\nurl = {json.dumps(valkey.url('hub-eu'))}\n"
    policy = {"commands": ["spawn", "status", "kill", "logs", "diff", "send", "resume"]}
    agents = {"agents.worker": {"profile": "fake"}, "agents.tester": {"profile": "report"}}
    spoke_toml = tables(valkey={"url": valkey.url("build-1")}, policy=policy, **agents)
    with HubNode(tmp_path, toml=hub_toml) as hub:
        async with SpokeNode(tmp_path, toml=spoke_toml) as spoke:
            await join(hub, spoke)
            pair = Pair(hub, spoke, make_repository(tmp_path / "repository"))
            await pair.up()
            yield pair


class Tour:
    """Runs commands of both operators, and keeps what they print."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.printed = ""

    async def hub(self, *arguments: str) -> str:
        done = await self.pair.hub.hub(*arguments)
        return self._done(done.returncode, done.stdout, done.stderr)

    async def spoke(self, *arguments: str) -> str:
        done = await self.pair.spoke.spoke(*arguments)
        return self._done(done.returncode, done.stdout, done.stderr)

    def _done(self, status: int, out: str, err: str) -> str:
        self.printed += out + err
        assert status == 0, out + err
        return out

    async def see(self, *paths: str) -> None:
        for path in paths:
            status, document = await self.pair.hub.call("GET", path)
            assert status == 200, document

    async def spawn(self, *items: str) -> str:
        return await self.pair.spawn(*items)

    async def drive_agents(self) -> None:
        """From spawn to result, kill, freeze, requeue and what is left."""
        ended = await self.spawn("commit a.txt", "fail out of ideas")
        await self.pair.until(ended, "failed")
        for command in ("status", "logs", "diff"):
            await self.hub(command, ended)
        await self.hub("resume", ended, "commit b.txt")
        await self.pair.until(ended, "completed")
        await self.hub("list", "--status", "completed")
        lives = await self.spawn("listen", "sleep 600")
        await self.pair.until(lives, "running", live=True)
        await self.hub("send", lives, "go on")
        await self.hub("kill", lives)
        await self.pair.until(lives, "killed")
        await self.spoke("agent", "requeue", lives)
        await self.hub("kill", "--all", "--yes")
        waits = await self._waiting()
        await self.hub("freeze", self.pair.spoke.id, "--kill", "--yes")
        await self.pair.until(waits, "killed")
        await self.hub("thaw", self.pair.spoke.id)

    async def _waiting(self) -> str:
        await self.spoke("queue", "pause")
        agent = await self.spawn("print x")
        await self.pair.until(agent, "queued")
        await self.spoke("queue")
        await self.spoke("queue", "resume")
        again = await self.spawn("listen", "sleep 600")
        await self.pair.until(again, "running")
        return again

    async def drive_operators(self) -> None:
        """Lists, metrics, webhooks, doctors, drain, clean-up."""
        async with ClientSession() as session:
            for node in (self.pair.hub, self.pair.spoke):
                async with session.get(f"{node.url}/metrics") as response:
                    assert "valkey_durable 1.0" in await response.text()
        for command in (("agent", "list", "--status", "killed"), ("gc",), ("drain",), ("drain", "--off"), ("doctor",)):
            await self.spoke(*command)
        await self.see(
            "/api/v1/agents?status=killed&limit=1", "/api/v1/agents?taskId=T-1", "/api/v1/agents?reason=killed_by_hub"
        )
        await self.see(f"/api/v1/agents?spoke={self.pair.spoke.id}", "/api/v1/peers")
        await self.hub("peer", "list")
        await self.hub("doctor")


@pytest.mark.slow
@pytest.mark.timeout(300)  # some forty commands, one after the other
@pytest.mark.parametrize(
    "binary",
    [
        pytest.param(None, id="Valkey behind a front"),
        pytest.param(Path("/usr/bin/redis-server"), id="Redis with its own TLS", marks=pytest.mark.deploy),
    ],
)
async def test_everything_works_with_exactly_these_rights(tmp_path: Path, binary: Path | None) -> None:
    with TlsValkey(tmp_path / "valkey", documented(), binary=binary) as valkey:
        async with nodes_on(valkey, tmp_path) as pair:
            tour = Tour(pair)
            async with Receiver() as webhook:
                added = json.loads(await tour.hub("webhook", "add", webhook.url, "--json"))
                webhook.secrets.append(added["secret"])
                await tour.drive_agents()
                await tour.drive_operators()
            for node in (pair.hub, pair.spoke):
                assert PASSWORD.encode() not in command_lines()
                assert PASSWORD not in node.log()
            assert PASSWORD not in tour.printed
        assert valkey.denied() == []
        for name, rights in NODES.items():
            assert rights.commands - valkey.called() <= in_scripts(name), "a right that nothing needs"


# --- with fewer, or by a way that nobody should trust ---------------------------------------------------------


PIECES = {
    "its keys": (" ~hs:{build-1}:*", " ~other:*", "~hs:{build-1}:*"),
    "its channels": (" &hs:{build-1}:*", "", "&hs:{build-1}:*"),
    "scripts": (" +eval ", " ", "+eval"),
    "scripts by their hash": (" +evalsha ", " ", "+evalsha"),
    "reading": (" +get ", " ", "+get"),
    "publishing": (" +publish ", " ", "+publish"),
    "a command of a script": (" +zmscore ", " ", "+zmscore"),
    "two commands": (" +xdel +xlen ", " ", "+xdel +xlen"),
    "INFO": (" +info ", " ", "+info"),
}


@pytest.fixture(scope="module")
def bounded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsValkey]:
    with TlsValkey(tmp_path_factory.mktemp("valkey"), documented()) as valkey:
        yield valkey


@pytest.fixture
def spoke(tmp_path: Path, bounded: TlsValkey) -> SpokeNode:
    """A spoke that is set up and not started."""
    return SpokeNode(tmp_path, toml=tables(valkey={"url": bounded.url("build-1")}))


def give(valkey: TlsValkey, rule: str) -> None:
    """Give the spoke's user this rule and no other."""
    words = ["ACL", "SETUSER", "build-1", "reset", "on", f">{PASSWORD}", *rule.split()]
    valkey.admin.execute_command(*words)  # type: ignore[no-untyped-call]  # redis-py has no types there


def bad_line(text: str) -> str:
    (line,) = (line for line in text.splitlines() if line.startswith("bad   valkey"))
    return line


@pytest.mark.parametrize(("piece", "instead", "named"), PIECES.values(), ids=PIECES)
async def test_a_right_that_is_missing_is_named(bounded: TlsValkey, piece: str, instead: str, named: str) -> None:
    rule = documented()["build-1"]
    assert piece in rule
    give(bounded, rule.replace(piece, instead))
    async with connect(bounded.url("build-1")) as client:
        with pytest.raises(LocalError) as refusal:
            await check_server(client, NODES["build-1"], False)
    assert refusal.value.code == "valkey_rights"
    assert refusal.value.message.startswith(f"our user lacks rights in Valkey: {named}; ")


@pytest.mark.slow
async def test_neither_the_node_nor_the_doctor_goes_on_without_a_right(bounded: TlsValkey, spoke: SpokeNode) -> None:
    give(bounded, documented()["build-1"].replace("+zmscore ", ""))
    served, doctor = await spoke.spoke("serve"), await spoke.spoke("doctor")
    assert (served.returncode, served.stdout) == (1, "")
    (line,) = served.stderr.splitlines()
    assert line.startswith("error: valkey_rights: our user lacks rights in Valkey: +zmscore; ")
    assert "+zmscore" in bad_line(doctor.stdout)
    assert PASSWORD not in served.stderr + doctor.stdout


@pytest.mark.slow
async def test_a_right_that_is_taken_from_a_running_node_is_an_outage_that_ends_with_it(
    bounded: TlsValkey, spoke: SpokeNode
) -> None:
    give(bounded, documented()["build-1"])
    async with spoke:
        give(bounded, documented()["build-1"].replace("+mget ", ""))
        (line, *_) = await eventually(lambda: spoke.log_lines("store.not_checked"), "it says so")
        assert "this user has no permissions to run the 'mget' command" in line["reason"]
        assert "build-1 has" not in line["reason"]
        give(bounded, documented()["build-1"])

        async def ready() -> bool:
            return (await spoke.call("GET", "/readyz"))[0] == 200

        await eventually(ready, "it is ready again")
    assert "Traceback" not in spoke.log()


async def test_who_allows_losses_needs_no_right_to_read_the_configuration(bounded: TlsValkey) -> None:
    give(bounded, documented()["build-1"].replace("+config|get ", ""))
    async with connect(bounded.url("build-1")) as client:
        (shortfall,) = await check_server(client, NODES["build-1"], True)
        assert "CONFIG" in shortfall
        with pytest.raises(LocalError) as refusal:
            await check_server(client, NODES["build-1"], False)
    assert refusal.value.code == "valkey_not_durable"


def wrong_urls(valkey: TlsValkey, directory: Path) -> dict[str, str]:
    other = Authority().write(directory / "other.crt")
    (directory / "none.pem").write_text("no key")
    good = valkey.url("build-1")
    return {
        "unavailable: a wrong password": valkey.url("build-1", "guessed"),
        "unavailable: another authority": valkey.url("build-1", ssl_ca_certs=str(other)),
        "unavailable: another name": good.replace("127.0.0.1", "localhost"),
        "unavailable: no certificate of ours": good.partition("&")[0],
        "valkey_url: no such file": valkey.url("build-1", ssl_ca_certs=str(directory / "missing")),
        "valkey_url: no key": valkey.url("build-1", ssl_keyfile=str(directory / "none.pem")),
    }


async def test_a_server_or_a_client_that_is_not_believed(bounded: TlsValkey, tmp_path: Path) -> None:
    give(bounded, documented()["build-1"])
    for expected, url in wrong_urls(bounded, tmp_path).items():
        with pytest.raises(HubspokeError) as refusal:
            async with connect(url) as client:
                await check_server(client, NODES["build-1"], False)
        assert refusal.value.code == expected.partition(":")[0], expected
        assert not [secret for secret in (PASSWORD, "guessed", "\n") if secret in refusal.value.message], expected


WAYS = {
    "embedded": "embedded",
    "redis://:secret@valkey.internal": "reached without TLS",
    "valkey://:secret@10.0.0.5": "reached without TLS",
    "valkey://127.0.0.1": "reached on this machine only",
    "valkeys://:secret@valkey.internal": "reached by TLS",
    "unix:///run/valkey.sock": "reached on this machine only",
}


@pytest.mark.parametrize(("url", "way"), WAYS.items())
def test_the_doctor_says_who_could_read_along(url: str, way: str) -> None:
    report = describe(url, ())
    assert (way in report.detail, report.exposed) == (True, way == "reached without TLS")
    assert "secret" not in report.detail
    assert "may lose data" in describe(url, ("appendonly is no",)).detail
