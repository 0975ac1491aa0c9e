"""The audit of a running node: every decision a durable line, and nothing new without one (fault 29).

What starts something or changes trust is written **before** it is done (`intend`, `tell`), its outcome before the
answer leaves (`record`, or `begin` where there is something else to do meanwhile). Lines are written where the decision
is made; `fdatasync` runs in one thread, once for all who wait at the time. While the file cannot be written, all of
these raise `AuditUnavailable`; each tries anew.
Refusals are counted first, so that a flood of them makes a few lines (attack row 64).
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog

from common.audit import PRUNED, START, Entry, Head, checkpoint
from common.audit_chain import ChainFile
from common.audit_directory import AuditDirectory, last_of
from common.audit_refusals import Cause, Refusals
from common.clock import Clock
from common.errors import Unavailable
from common.keyring import NodeKeys

TICK_S: Final = 0.25
_RETRY_AFTER_S: Final = 5
_TAKING: Final = frozenset({"token.revoked", "invite.withdrawn", "peer.key_revoked"})
_log: Final = structlog.get_logger("audit")
_actor: Final[contextvars.ContextVar[str]] = contextvars.ContextVar("actor", default="node")


class AuditUnavailable(Unavailable):
    """The audit file cannot be written, so nothing new is taken on until it can."""

    def __init__(self, why: str) -> None:
        super().__init__(f"the audit file cannot be written: {why}; nothing new is taken", retry_after_s=_RETRY_AFTER_S)


def takes_away(event: str, fields: Mapping[str, object]) -> bool:
    """Whether a change leaves everybody with the same rights or fewer."""
    return event in _TAKING or (event == "peer.changed" and fields.get("state") in {"suspended", "revoked"})


def _log_unwritten(event: str, fields: Mapping[str, object]) -> None:
    _log.error("audit.unwritten", decision=event, by=_actor.get(), **fields)


async def _nothing() -> None:
    pass


def _heed(visit: asyncio.Future[None]) -> None:
    """Take note of a failure for which nobody waits any more; whoever did has it as well."""
    visit.cancelled() or visit.exception()


@contextmanager
def acting(actor: str) -> Iterator[None]:
    """Name who makes the decisions inside the block: `admin.token`, `token:ops`, `local.token`, `cli:1000`."""
    token = _actor.set(actor)
    try:
        yield
    finally:
        _actor.reset(token)


@dataclass(frozen=True, slots=True)
class AuditBounds:
    """When a checkpoint is due, how large a file gets, and how many full ones are kept."""

    checkpoint_lines: int = 1000
    checkpoint_s: int = 60
    file_bytes: int = 64 * 1024 * 1024
    files: int = 16


class Audit:
    """The audit of the node `node`, whose `keys` sign checkpoints. `run` is its task; `close` it when done."""

    def __init__(
        self, directory: AuditDirectory, node: str, keys: NodeKeys, clock: Clock, bounds: AuditBounds | None = None
    ) -> None:
        self._directory = directory
        self._node = node
        self._keys = keys
        self._clock = clock
        self.bounds = bounds or AuditBounds()
        """May be replaced while it runs."""
        self._chain = ChainFile(directory)
        self._refusals = Refusals()
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="audit")
        self._synced = 0
        self._visit: asyncio.Future[None] | None = None
        self._sealed = 0
        self._seal_at_ms = 0
        self._complaint: str | None = None
        self._is_serving = False

    @property
    def is_available(self) -> bool:
        """Whether the last attempt to write went well."""
        return self._complaint is None

    def check(self) -> None:
        """Raise `AuditUnavailable` unless the last attempt to write went well."""
        if self._complaint is not None:
            raise AuditUnavailable(self._complaint)

    # --- for whoever decides

    def intend(self, event: str, **fields: object) -> None:
        """Write what is about to be done; raises `AuditUnavailable`, and then it must not be done.

        The line is on the disk with the next one that is waited for.
        """
        self._write([Entry(event, fields)])

    async def record(self, event: str, **fields: object) -> None:
        """Write a decision and wait until it is on the disk; raises `AuditUnavailable`."""
        await self.begin(event, **fields)()

    async def note(self, event: str, **fields: object) -> None:
        """Write a decision as `record` does; where it cannot be written, to the log: for what must not fail, a kill."""
        await self.begin_note(event, **fields)()

    def begin(self, event: str, **fields: object) -> Callable[[], Awaitable[None]]:
        """Write a decision and let it go to the disk; returns what waits for that. Both raise `AuditUnavailable`."""
        return self._begin([Entry(event, fields)])

    def begin_note(self, event: str, **fields: object) -> Callable[[], Awaitable[None]]:
        """Write as `begin` does, what cannot be written to the log."""
        try:
            kept = self.begin(event, **fields)
        except AuditUnavailable:
            _log_unwritten(event, fields)
            return _nothing

        async def noted() -> None:
            try:
                await kept()
            except AuditUnavailable:
                _log_unwritten(event, fields)

        return noted

    def _begin(self, entries: Sequence[Entry], seal: str | None = None) -> Callable[[], Awaitable[None]]:
        # Written, and so signed, here: the trust store, which knows the key of now, belongs to this thread.
        number = self._write(entries, seal)
        return partial(self._kept, number, self._begin_visit())

    def _begin_visit(self) -> asyncio.Future[None]:
        # Whoever finds no visit to the disk under way begins one; the others wait for it, and perhaps for the next.
        # One that is done is none: to wait for it gives the event loop no turn to tell anybody.
        if self._visit is None or self._visit.done():
            self._visit = asyncio.get_running_loop().run_in_executor(self._thread, self._sync)
            self._visit.add_done_callback(_heed)
        return self._visit

    async def _kept(self, number: int, visit: asyncio.Future[None]) -> None:
        await asyncio.shield(visit)  # where it failed the next one may succeed without what it did not write
        while self._synced < number:
            await asyncio.shield(self._begin_visit())

    def tell(self, event: str, fields: Mapping[str, object]) -> None:
        """Write a change of trust, sealed, and wait for the disk; raises `AuditUnavailable`: then it must not be done.

        What takes trust away is never held up: it goes to the log instead.
        """
        try:
            self._write([Entry(event, fields)], seal="change")
            self._sync()
        except AuditUnavailable:
            if not takes_away(event, fields):
                raise
            _log_unwritten(event, fields)

    def refuse(
        self, event: str, code: str, *, peer: str | None = None, address: str | None = None, detail: str | None = None
    ) -> None:
        """Count a refusal; it is written within a second, in one line with the others of its cause."""
        self._refusals.add(self._clock.now_ms(), Cause(event, code, peer), address, detail)

    # --- its life

    def seal(self, cause: str) -> None:
        """Write what was counted and a checkpoint, and wait for the disk; raises `AuditUnavailable`."""
        entries = self._refusals.drain() if cause == "stop" else []
        self._write(entries, seal=cause)
        self._sync()

    async def run(self) -> None:
        """Write refusals and checkpoints when they are due, until cancelled; what fails is tried again."""
        while True:
            await asyncio.sleep(TICK_S)
            with suppress(AuditUnavailable):
                await self._tick()

    async def _tick(self) -> None:
        entries = self._refusals.due(self._clock.now_ms())
        if entries or not self.is_available:
            await self._begin(entries or [Entry("audit.resumed")])()
        if self._chain.head.number > self._sealed and self._clock.now_ms() >= self._seal_at_ms:
            await self._begin([], "time")()

    @contextmanager
    def serving(self) -> Iterator[Audit]:
        """Seal at the start of the block and at its end; a node that cannot runs on and takes nothing new meanwhile."""
        self._is_serving = True
        with suppress(AuditUnavailable):
            self.seal("start")
        try:
            yield self
        finally:
            with suppress(AuditUnavailable):
                self.seal("stop")

    def sign_with(self, keys: NodeKeys) -> None:
        """Take the keys that know of rotations; before, the key that the node started with signs."""
        self._keys = keys

    def close(self) -> None:
        """Close the file."""
        self._thread.shutdown()
        with self._lock:
            self._chain.close()

    # --- the file

    def _write(self, entries: Sequence[Entry], seal: str | None = None) -> int:
        """Append; returns the number of the last line."""
        actor = _actor.get()
        stamped = [Entry(entry.event, {"by": actor, **entry.fields}) for entry in entries]
        with self._lock, self._translated():
            is_due = self._chain.head.number + len(stamped) - self._sealed >= self.bounds.checkpoint_lines
            cause = seal or ("lines" if is_due and self._sealed else None)
            self._chain.append(self._clock.now_ms(), stamped, None if cause is None else self._sealer(cause))
            if cause is not None:
                self._note_seal(cause)
            if self._chain.size >= self.bounds.file_bytes:
                self._cut_over()
            return self._chain.head.number

    def _sealer(self, cause: str) -> Callable[[Head], Entry]:
        key = self._keys.current
        return lambda head: checkpoint(self._node, key, key.public, head, cause)

    def _note_seal(self, cause: str) -> None:
        head = self._chain.head
        self._sealed = head.number
        self._seal_at_ms = self._clock.now_ms() + self.bounds.checkpoint_s * 1000
        # Whoever collects the node's log has a witness that nobody on this machine can change. A change may come from
        # the command line, which has no log.
        if cause != "change":
            _log.info("audit.checkpoint", number=head.number, digest=head.digest, cause=cause)

    def _cut_over(self) -> None:
        self._chain.cut_over()
        self._synced = self._chain.head.number
        for path in self._directory.full_files()[: -self.bounds.files]:
            last = last_of(path) or START
            fields = {"file": path.name, "last": last.number, "digest": last.digest}
            self._chain.append(self._clock.now_ms(), [Entry(PRUNED, fields)])
            path.unlink()

    def _sync(self) -> None:
        """Return when every line that was written is on the disk; in the one thread, or at the start and the end."""
        with self._translated():
            with self._lock:
                file, written = self._chain.duplicate(), self._chain.head.number
            try:
                os.fdatasync(file)
            finally:
                os.close(file)
            self._synced = max(self._synced, written)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            why = error.strerror or type(error).__name__
            # On the command line the error itself is the one line on stderr.
            if self._complaint != why and self._is_serving:
                _log.error("audit.unavailable", reason=why, directory=str(self._directory.path))
            self._complaint = why
            raise AuditUnavailable(why) from error
        if self._complaint is not None:
            _log.warning("audit.available")
            self._complaint = None
