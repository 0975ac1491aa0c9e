"""Which attempt of which agent was started on which other machine, kept on the node's own disk: `DIR/places.db`.

A row is written, durably, before a machine hears that it may start an attempt, and is never given to another: neither
an emptied nor a tampered store can have one attempt started on two machines. There is no file before the first.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final

from common.errors import Unavailable
from spoke.agent_record import AgentRef

FILE_NAME: Final = "places.db"
_BUSY_TIMEOUT_S: Final = 10
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS starts (
    tenant TEXT NOT NULL, agent TEXT NOT NULL, attempt INTEGER NOT NULL, machine TEXT NOT NULL, at_ms INTEGER NOT NULL,
    PRIMARY KEY (tenant, agent, attempt)
) STRICT, WITHOUT ROWID
"""


class Places:
    """The starts on other machines, of all processes of the directory."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE_NAME

    def machine_of(self, ref: AgentRef, attempt: int) -> str | None:
        """Return the machine on which that attempt was started, None for the node's own or none; `Unavailable`."""
        return self.attempts(ref).get(attempt)

    def attempts(self, ref: AgentRef) -> dict[int, str]:
        """Return the machines of an agent's attempts that were started on another; raises `Unavailable`."""
        if not self.exists:
            return {}
        with self._open() as database:
            query = "SELECT attempt, machine FROM starts WHERE tenant = ? AND agent = ?"
            return dict(database.execute(query, (ref.tenant, ref.agent_id)).fetchall())

    def note(self, ref: AgentRef, attempt: int, machine: str, now_ms: int) -> bool:
        """Note, durably, that a machine starts an attempt; False when it is another's, or a later one was started.

        Raises `Unavailable`.
        """
        with self._open() as database:
            database.execute("BEGIN IMMEDIATE")
            query = "SELECT attempt, machine FROM starts WHERE tenant = ? AND agent = ?"
            known = dict(database.execute(query, (ref.tenant, ref.agent_id)).fetchall())
            if {*known.values()} - {machine} or any(later > attempt for later in known):
                return False
            if attempt not in known:
                row = (ref.tenant, ref.agent_id, attempt, machine, now_ms)
                database.execute("INSERT INTO starts VALUES (?, ?, ?, ?, ?)", row)
            database.execute("COMMIT")
        return True

    @property
    def exists(self) -> bool:
        """Whether anything was ever started on another machine."""
        return self._path.exists()

    def forget(self, before_ms: int) -> None:
        """Forget the starts before then; raises `Unavailable`."""
        if self.exists:
            with self._open() as database:
                database.execute("DELETE FROM starts WHERE at_ms < ?", (before_ms,))

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with suppress(FileExistsError):
                os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            with closing(sqlite3.connect(self._path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)) as database:
                # FULL does not bring the end of the journal to the disk: a power cut could take a row back.
                database.execute("PRAGMA synchronous = EXTRA")
                database.execute(_SCHEMA)
                yield database
        except (OSError, sqlite3.Error) as error:
            raise Unavailable(f"{self._path} cannot be used: {error}") from error
