"""Scripts run whole on a real server, by hash, from files."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from common.errors import LocalError, Unavailable
from common.scripts import ScriptSet

FOLDER = ("tests.integration", "valkey_scripts")


async def test_runs_by_hash_and_sends_the_text_only_when_unknown(valkey: Redis, key_prefix: str) -> None:
    script = ScriptSet(*FOLDER)["append_once"]
    await valkey.script_flush()
    assert await valkey.script_exists(script.sha) == [False]
    assert await script(valkey, [key_prefix], ["a"]) == [b"a"]
    assert await valkey.script_exists(script.sha) == [True]
    await valkey.config_resetstat()
    assert await script(valkey, [key_prefix], [7]) == [b"a", b"7"]
    commands = await valkey.info("commandstats")
    assert "cmdstat_evalsha" in commands
    assert "cmdstat_eval" not in commands


async def test_forgotten_between_two_calls_it_is_sent_again(valkey: Redis, key_prefix: str) -> None:
    script = ScriptSet(*FOLDER)["append_once"]
    await script(valkey, [key_prefix], ["a"])
    await valkey.script_flush()
    assert await script(valkey, [key_prefix.encode()], [b"b"]) == [b"a", b"b"]


HOSTILE = {
    "quotes": "\"'",
    "newlines": "\r\n*1\r\n$8\r\nFLUSHALL\r\n",
    "lua": "'); redis.call('FLUSHALL') --",
    "pattern": "KEYS *",
    "NUL and invalid UTF-8": b"\x00\xff\xfe",
    "empty": "",
}


@pytest.mark.attack(59)
@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE.keys())
async def test_values_are_only_values(valkey: Redis, key_prefix: str, value: str | bytes) -> None:
    witness = f"{key_prefix}witness"
    await valkey.set(witness, "untouched")
    raw = value if isinstance(value, bytes) else value.encode()
    key = key_prefix.encode() + raw
    assert await ScriptSet(*FOLDER)["append_once"](valkey, [key], [value]) == [raw]
    assert await valkey.lrange(key, 0, -1) == [raw]
    assert await valkey.get(witness) == b"untouched"


async def test_a_script_that_the_server_refuses_is_unavailable(valkey: Redis) -> None:
    with pytest.raises(Unavailable, match="OutOfMemory"):
        await ScriptSet(*FOLDER)["fail"](valkey, [], [])


async def test_fragments_stand_before_each_script_and_are_none_themselves(valkey: Redis) -> None:
    scripts = ScriptSet(*FOLDER)
    assert await scripts["shared"](valkey, [], [2]) == 4
    with pytest.raises(LocalError):
        scripts["_double"]


@pytest.mark.parametrize(
    ("package", "folder"),
    [("tests.integration", "no_such_folder"), ("tests", "vectors")],
    ids=["no folder", "no scripts in it"],
)
def test_a_package_without_scripts_is_refused_at_once(package: str, folder: str) -> None:
    with pytest.raises(LocalError, match="install hubspoke again") as refusal:
        ScriptSet(package, folder)
    assert refusal.value.code == "scripts_missing"


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(LocalError, match=r"no script README\.lua") as refusal:
        ScriptSet(*FOLDER)["README"]
    assert refusal.value.code == "scripts_missing"
