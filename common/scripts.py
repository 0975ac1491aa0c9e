"""Lua scripts of Valkey as whole files beside their callers.

Decides that a script runs by its hash and is sent whole only when the server does not know it (after a restart, a
failover or SCRIPT FLUSH). Values travel as keys and arguments and are never pasted into the text (attack row 59).
Refuses a folder without scripts and a name without a file, when the node starts and not at the first call.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from common.errors import LocalError
from common.valkey import translated

_SUFFIX: Final = ".lua"
_FRAGMENT: Final = "_"


class Script:
    """One script; `await script(client, keys, args)` runs it in one step on the server."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()  # the name EVALSHA knows it by

    async def __call__(self, client: Redis, keys: Sequence[str | bytes], args: Sequence[str | bytes | int]) -> Any:
        """Return what the script returns, strings as bytes; raises `Unavailable`, after which it may have run."""
        with translated():
            try:
                return await client.evalsha(self.sha, len(keys), *keys, *args)
            except NoScriptError:
                return await client.eval(self.source, len(keys), *keys, *args)


class ScriptSet:
    """The scripts of one package: `ScriptSet("spoke")["claim"]` is `spoke/scripts/claim.lua`."""

    def __init__(self, package: str, folder: str = "scripts") -> None:
        """Read every `*.lua` of the folder, each behind the folder's fragments `_*.lua`, which are no scripts.

        Raises `LocalError` `scripts_missing` when there is none.
        """
        self._place = f"{package}/{folder}"
        root = files(package) / folder
        entries = root.iterdir() if root.is_dir() else ()
        sources = {
            entry.name.removesuffix(_SUFFIX): entry.read_text("utf-8")
            for entry in entries
            if entry.name.endswith(_SUFFIX)
        }
        shared = "".join(sources.pop(name) for name in sorted(sources) if name.startswith(_FRAGMENT))
        self._scripts = {name: Script(shared + source) for name, source in sources.items()}
        if not self._scripts:
            raise self._missing("no scripts")

    def __getitem__(self, name: str) -> Script:
        """Return the script of that name; raises `LocalError` `scripts_missing`."""
        try:
            return self._scripts[name]
        except KeyError as error:
            raise self._missing(f"no script {name}{_SUFFIX}") from error

    @property
    def sources(self) -> tuple[str, ...]:
        """The text of every script."""
        return tuple(script.source for script in self._scripts.values())

    def _missing(self, what: str) -> LocalError:
        return LocalError(f"{what} in {self._place}: install hubspoke again", code="scripts_missing")
