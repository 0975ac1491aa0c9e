"""Watches over the store: compares it with the mark outside it at the start and every second, and recovers by itself.

Decides when a loss is noticed and recorded: the mark in the node's directory first, durably, then the new generation
in Valkey, so that a crash in between is a loss noticed twice and never one forgotten. Between two looks the scripts
that accept envelopes compare for themselves. The mark lags by at most a second behind the counter, and not at all
while the node runs or after it was stopped: only a copy younger than that second, put in place together with a crash
of the node, would pass.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import structlog
from redis.asyncio import Redis

from common.clock import Clock
from common.errors import HubspokeError, LocalError, Unavailable
from common.ids import rfc3339
from common.store_mark import ACCEPTED, GENERATION, TOLD, Cause, KnownStore, StoreMark, find_loss
from common.valkey import translated

FILE_NAME: Final = "store.mark"
POLL_S: Final = 1.0
_log: Final = structlog.get_logger("store")


class MarkFile:
    """The mark in a node's directory; a write is durable when it returns, and whole or not at all."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE_NAME
        self._writing = threading.Lock()

    def read(self) -> StoreMark | None:
        """Return the mark, None when there is none; raises `LocalError` for a file that is none."""
        try:
            return StoreMark.decode(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise LocalError(
                f"{self._path} cannot be read: {error}; remove it, and envelopes will be refused for some minutes",
                code="store_mark",
            ) from error

    def write(self, mark: StoreMark) -> None:
        """Replace the mark; raises `Unavailable` when the disk does not take it."""
        temporary = self._path.with_suffix(".new")
        try:
            with self._writing:
                descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
                with os.fdopen(descriptor, "wb") as file:
                    file.write(mark.encode())
                    file.flush()
                    os.fsync(descriptor)
                temporary.replace(self._path)
                _sync_directory(self._path.parent)
        except OSError as error:
            raise Unavailable(f"cannot write {self._path}: {error.strerror}") from error


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class Watched:
    """What lies in the store `prefix`, and where its mark is kept."""

    client: Redis
    prefix: str
    file: MarkFile


class StoreGuard:
    """Keeps `known` true. `recover` is called after a loss until it succeeds: what was lost is dealt with there."""

    def __init__(
        self, watched: Watched, known: KnownStore, clock: Clock, recover: Callable[[], Awaitable[None]]
    ) -> None:
        self._client = watched.client
        self._prefix = watched.prefix
        self._file = watched.file
        self._known = known
        self._clock = clock
        self._recover = recover
        self._written: StoreMark | None = None
        self._adopted = False
        """Whether Valkey holds the generation of our mark; only while it does the two can be compared."""

    async def open(self) -> None:
        """Look at the store before anything is accepted; raises `Unavailable`, `LocalError`."""
        self._written = mark = self._file.read()
        generation, accepted = await self._read()
        cause = find_loss(mark, generation, accepted)
        if mark is None:
            self._known.mark = mark = StoreMark(self._clock.new_id())
            await self._write(mark)
        else:
            self._known.mark = mark
        if cause is not None:
            await self._note_loss(cause)
        self._adopted = cause is None and generation == mark.generation
        await self.look()

    async def watch(self) -> None:
        """Look every second until cancelled."""
        while True:
            try:
                await self.look()
                if not self._known.mark.settled:
                    await self._settle()
            except HubspokeError as error:
                _log.warning("store.not_checked", reason=error.message)
            await asyncio.sleep(POLL_S)

    async def look(self) -> None:
        """Compare once, note a loss, and write down the counter; raises `Unavailable`."""
        if self._adopted:
            before = self._known.mark  # the counter only grows while we ask, so this is the smaller one
            generation, accepted = await self._read()
            cause = find_loss(before, generation, accepted)
            if cause is None:
                self._known.saw(generation, accepted)
            else:
                await self._note_loss(cause)
        if not self._adopted:
            await self._adopt()
        if self._written != self._known.mark:
            await self._write(self._known.mark)

    async def close(self) -> None:
        """Write down the counter as it is at the end; when the store is away, as it was seen last."""
        try:
            await self.look()
        except HubspokeError as error:
            _log.warning("store.not_checked", reason=error.message)

    async def _note_loss(self, cause: Cause) -> None:
        mark = StoreMark(self._clock.new_id(), lost_ms=self._clock.now_ms(), cause=cause, settled=False)
        await self._write(mark)
        self._known.mark = mark
        self._adopted = False
        skew_s = self._known.skew_s
        _log.error(
            "store.lost",
            cause=cause,
            reason=f"{TOLD[cause]}: which envelopes were accepted, and what waited in it, is forgotten",
            takes_fresh_envelopes_from=rfc3339(mark.refuses_until_s(skew_s) * 1000),
            windows_closed_at=rfc3339(mark.windows_closed_s(skew_s) * 1000),
        )

    async def _settle(self) -> None:
        await self._recover()
        self._known.mark = replace(self._known.mark, settled=True)
        await self._write(self._known.mark)
        _log.warning("store.recovered", cause=self._known.mark.cause, generation=self._known.mark.generation)

    async def _read(self) -> tuple[str, int]:
        """Return generation ("" for none) and counter."""
        with translated():
            found: Any = await self._client.mget(self._prefix + GENERATION, self._prefix + ACCEPTED)
        generation, accepted = (value or b"" for value in found)
        # What is no number was not written by us: it counts as none.
        return generation.decode("utf-8", "replace"), int(accepted) if accepted.isdigit() else 0

    async def _adopt(self) -> None:
        """Make the store that is there ours."""
        with translated():
            async with self._client.pipeline(transaction=True) as pipeline:
                pipeline.set(self._prefix + ACCEPTED, 1)
                pipeline.set(self._prefix + GENERATION, self._known.mark.generation)
                await pipeline.execute()
        self._adopted = True
        self._known.saw(self._known.mark.generation, 1)

    async def _write(self, mark: StoreMark) -> None:
        await asyncio.to_thread(self._file.write, mark)
        self._written = mark
