"""What a node's user may do in a Valkey that is shared with others, asked before anything is accepted.

Decides which rights a node needs: the commands in its scripts, those it calls itself, its keys, its channels. Refuses a
user that has too few and names what is missing, because the alternative is a node that fails at the first kill.
`doctor` asks the same. That a user has *more* rights is not looked at: nobody may list them without a right to do so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import NoPermissionError

from common.errors import LocalError
from common.scripts import ScriptSet
from common.valkey import check_durability, translated

_CALLED_IN_SCRIPT: Final = re.compile(r"redis\.p?call\('([A-Z]+)'")
_EVERY_NODE: Final = frozenset({"config|get", "eval", "evalsha", "exec", "get", "info", "mget", "multi", "set"})
"""Of check_durability, the scripts, the guard of the store, and `check_rights` itself."""
_ASKED_OTHERWISE: Final = frozenset({"config|get", "eval", "evalsha", "get", "publish"})
"""`config|get` only by check_durability: who allows losses may do without it. The others by making a harmless call."""
_REFUSED_COMMAND: Final = re.compile(r"to run the '([^']+)' command")


@dataclass(frozen=True, slots=True)
class Rights:
    """What one node needs: commands as in ACL rules (`config|get`), and the prefix of its keys and channels."""

    commands: frozenset[str]
    prefix: str

    @classmethod
    def of(cls, package: str, prefix: str, direct: frozenset[str]) -> Rights:
        """Return the rights of a node whose scripts lie in `package` and which calls `direct` itself."""
        in_scripts = {
            name.lower() for source in ScriptSet(package).sources for name in _CALLED_IN_SCRIPT.findall(source)
        }
        return cls(_EVERY_NODE | direct | in_scripts, prefix)

    @property
    def rule(self) -> str:
        """Return them as an ACL rule, to stand behind `user NAME on >PASSWORD`."""
        commands = " ".join(f"+{name}" for name in sorted(self.commands))
        channels = f"&{self.prefix}* " if self.publishes else ""
        return f"resetchannels {channels}~{self.prefix}* -@all {commands}"

    @property
    def publishes(self) -> bool:
        """Whether it needs channels."""
        return "publish" in self.commands


def _whole_call(name: str, key: str) -> list[str]:
    """Return a call of the command with as many words as any needs; whichever of them are keys, they are ours."""
    if name == "xread":
        return ["xread", "streams", key, "0"]
    command, _, subcommand = name.partition("|")
    return [command, *([subcommand] if subcommand else []), key, key, key, key]


async def _refused(call: Awaitable[Any], pattern: str) -> list[str]:
    """Make a call and return the right that it lacked, as an ACL rule has it."""
    try:
        await call
    except NoPermissionError as error:
        found = _REFUSED_COMMAND.search(str(error))
        return [f"+{found[1]}" if found else pattern]
    return []


async def missing_rights(client: Redis, rights: Rights) -> Sequence[str]:
    """Return what the client's user lacks, as pieces of an ACL rule; raises `Unavailable`."""
    key, source = f"{rights.prefix}rights", ScriptSet("common")["rights"]
    names = sorted(rights.commands - _ASKED_OTHERWISE)
    calls = [json.dumps(_whole_call(name, key)) for name in names]
    with translated():
        lacking = [
            *await _refused(client.get(key), f"~{rights.prefix}*"),
            *(await _refused(client.publish(key, ""), f"&{rights.prefix}*") if rights.publishes else ()),
            *await _refused(client.eval(source.source, 0), "+eval"),
        ]
        if lacking:  # without keys or scripts all the others would seem to be missing, too
            return lacking
        lacking = await _refused(client.evalsha(source.sha, 0), "+evalsha")
        numbers: Any = await client.eval(source.source, 0, *calls)
    return [*lacking, *(f"+{names[number - 1]}" for number in numbers)]


async def check_server(client: Redis, rights: Rights, allow_data_loss: bool) -> tuple[str, ...]:
    """Raise `LocalError` unless the server can be worked with: `valkey_rights`, `valkey_not_durable`.

    Returns the shortfalls that `allow_data_loss` let pass. Raises `Unavailable`.
    """
    if lacking := await missing_rights(client, rights):
        raise LocalError(
            f"our user lacks rights in Valkey: {' '.join(lacking)}; add them there by ACL SETUSER "
            "(docs/operations.md has the whole rule)",
            code="valkey_rights",
        )
    return await check_durability(client, allow_data_loss)
