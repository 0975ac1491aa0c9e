"""Where an agent's run lies on disk: one directory for each attempt, made once, kept for its log and result.

`ROOT/TENANT/AGENT/ATTEMPT/` is the run directory of `spoke.supervision`; beside its records it holds the task, the
result file and the agent's home. Names come from checked ids only, so a path cannot leave the root (attack row 55).
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from common.ids import is_uuid7
from spoke.agent_record import AgentRef, TamperedRecord
from spoke.queue_terms import Asked
from spoke.supervision.run_dir import LAUNCH, LOG, TAIL

_TASK: Final = "task.json"
_PROMPT: Final = "prompt.md"
_RESULT: Final = "result.json"
_ORIGIN: Final = "origin.json"
_SETTLED: Final = "settled"
_TENANT: Final = re.compile(r"[a-z0-9][a-z0-9._-]*\Z")
_CHUNK_BYTES: Final = 1024 * 1024
_PARTIAL_CHARACTER_BYTES: Final = 3
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Run:
    """One attempt of one agent; `former_home` is that of an earlier attempt, which it goes on with."""

    directory: Path
    former_home: Path | None = None

    @property
    def task_file(self) -> Path:
        """The task as JSON; the agent finds it in `$HUBSPOKE_TASK_FILE`."""
        return self.directory / _TASK

    @property
    def prompt_file(self) -> Path:
        """The prompt, for programs that read a file; there only where the profile takes a prompt."""
        return self.directory / _PROMPT

    @property
    def result_file(self) -> Path:
        """Where the agent may write a result: `$HUBSPOKE_RESULT_FILE`."""
        return self.directory / "out" / _RESULT

    @property
    def home(self) -> Path:
        """The agent's home directory, empty at the start of one that does not go on with a former one."""
        return self.former_home or self.directory / "home"

    @property
    def temporary(self) -> Path:
        """The agent's directory for temporary files."""
        return self.directory / "tmp"

    @property
    def patch_file(self) -> Path:
        """The patch that was taken last of what the agent changed."""
        return self.directory / "changes.patch"

    def make(self, task: bytes, prompt: bytes | None = None) -> None:
        """Make the directories and write task and prompt; may be repeated until the agent is started."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for directory in (self.home, self.temporary, self.result_file.parent):
            directory.mkdir(mode=0o700, exist_ok=True)
        self.task_file.write_bytes(task)
        if prompt is not None:
            self.prompt_file.write_bytes(prompt)

    def output(self) -> Iterator[bytes]:
        """Return what the agent printed, in chunks: its log, and the end of what did not fit; raises OSError."""
        for name in (LOG, TAIL):
            with suppress(FileNotFoundError), os.fdopen(os.open(self.directory / name, _READ), "rb") as file:
                while stat.S_ISREG(os.fstat(file.fileno()).st_mode) and (chunk := file.read(_CHUNK_BYTES)):
                    yield chunk

    def at_home_in(self, earlier: Sequence[Run]) -> Run:
        """Return it with the home of the last of these runs that has one, in its place: programs keep paths in it."""
        for run in earlier:
            with suppress(FileNotFoundError):
                # The agent could put something else in its place: nothing but a directory is anybody's home.
                if stat.S_ISDIR(run.home.lstat().st_mode):
                    return replace(self, former_home=run.home)
        return self

    def keep_origin(self, fields: Mapping[str, str], asked: Asked) -> None:
        """Write down the record and the envelopes that the run is started from, for a store that forgets them."""
        spawn, resume = (envelope.decode("ascii", "replace") for envelope in (asked.spawn, asked.resume))
        origin = {"fields": dict(fields), "envelope": spawn, "resume": resume}
        (self.directory / _ORIGIN).write_text(json.dumps(origin))

    def read_origin(self) -> tuple[dict[str, str], Asked] | None:
        """Return what `keep_origin` wrote; None for anything else."""
        try:
            origin = json.loads((self.directory / _ORIGIN).read_text())
            fields = {str(name): str(value) for name, value in origin["fields"].items()}
            return fields, Asked(origin["envelope"].encode(), origin.get("resume", "").encode())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def settle(self) -> None:
        """Note that the store, or at least our log, has how it ended."""
        (self.directory / _SETTLED).touch()


@dataclass(frozen=True, slots=True)
class Unsettled:
    """The last attempt of an agent whose end was not recorded yet."""

    ref: AgentRef
    attempt: int
    run: Run

    def is_of(self, peer: str | None) -> bool:
        """Whether it is an agent of that peer; None for any."""
        return peer is None or self.ref.tenant.rpartition("_")[0] == peer


@dataclass(frozen=True, slots=True)
class LogSlice:
    """A piece of a log from byte `offset`; `end` says that the log went no further when it was read."""

    offset: int
    data: bytes
    end: bool

    def text(self) -> str:
        """Return it as text, with U+FFFD for what is none."""
        return self.data.decode("utf-8", "replace")

    def first(self, size: int) -> LogSlice:
        """Return the first `size` bytes of it."""
        return LogSlice(self.offset, self.data[:size], end=self.end and len(self.data) <= size)

    def to_json(self, *, ended: bool) -> dict[str, object]:
        """Return the slice as PROTOCOL section 2.1 shows it; `eof` once nothing more can come."""
        data = self.data if self.end and ended else _whole_characters(self.data)
        return {
            "offset": self.offset,
            "data": data.decode("utf-8", "replace"),
            "nextOffset": self.offset + len(data),
            "eof": self.end and ended,
        }


def _whole_characters(data: bytes) -> bytes:
    """Leave a character whose end has not been read yet to the next slice; what is no UTF-8 anyway stays."""
    for cut in range(1, min(_PARTIAL_CHARACTER_BYTES, len(data) - 1) + 1):
        lead = data[-cut]
        if lead >= 0xC0:  # noqa: PLR2004  # the first byte of a character of several
            width = 2 + (lead >= 0xE0) + (lead >= 0xF0)  # noqa: PLR2004
            return data[:-cut] if cut < width else data
        if lead < 0x80:  # noqa: PLR2004  # ASCII
            return data
    return data


class Runs:
    """All runs of a spoke, below one directory."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def run(self, ref: AgentRef, attempt: int) -> Run:
        """Return the run of an attempt, whether it is there or not; raises `TamperedRecord` for ids that are none."""
        if not is_uuid7(ref.agent_id) or not _TENANT.match(ref.tenant):
            raise TamperedRecord("the queue names an agent that cannot be")
        return Run(self.root / ref.tenant / ref.agent_id / str(attempt))

    def directory(self, ref: AgentRef) -> Path:
        """Return the directory of all attempts of an agent; raises `TamperedRecord` for ids that are none."""
        return self.run(ref, 0).directory.parent

    def agents(self) -> list[AgentRef]:
        """Return the agents that have runs."""
        return [AgentRef(path.parent.name, path.name) for path in self.root.glob("[a-z0-9]*/*") if is_uuid7(path.name)]

    def attempts(self, ref: AgentRef) -> list[Run]:
        """Return the runs of an agent that are there."""
        return [Run(path) for path in self.directory(ref).glob("*")]

    def earlier(self, ref: AgentRef, attempt: int) -> list[Run]:
        """Return the runs before an attempt that are there, the last one first."""
        runs = (self.run(ref, number) for number in range(attempt - 1, 0, -1))
        return [run for run in runs if run.directory.exists()]

    def used_ms(self, ref: AgentRef) -> int:
        """Return when anything about the agent's runs was last recorded, in milliseconds; 0 for never."""
        places = [self.directory(ref), *(run.directory for run in self.attempts(ref))]
        return max((place.stat().st_mtime_ns // 1_000_000 for place in places if place.exists()), default=0)

    def unsettled(self) -> list[Unsettled]:
        """Return the last attempt of each agent that was started and whose end was not recorded yet; raises OSError."""
        return [found for agent in self.root.glob("*/*/") if (found := self._unsettled(agent)) is not None]

    def unsettled_of(self, agent_id: str) -> list[Unsettled]:
        """Return what `unsettled` does, of the agents of that id."""
        agents = self.root.glob(f"*/{agent_id}/") if is_uuid7(agent_id) else ()
        return [found for agent in agents if (found := self._unsettled(agent)) is not None]

    def _unsettled(self, agent: Path) -> Unsettled | None:
        attempts = [int(path.name) for path in agent.iterdir() if path.name.isdecimal()]
        ref = AgentRef(agent.parent.name, agent.name)
        if not attempts or not is_uuid7(ref.agent_id):
            return None
        run = self.run(ref, max(attempts))
        is_open = (run.directory / LAUNCH).exists() and not (run.directory / _SETTLED).exists()
        return Unsettled(ref, max(attempts), run) if is_open else None

    def read_log(self, ref: AgentRef, attempt: int, offset: int, limit: int) -> LogSlice:
        """Read at most `limit` bytes of the log of an attempt; empty where there is none.

        The agent runs as our user and may have put something else in its place: only a regular file is read.
        """
        try:
            descriptor = os.open(self.run(ref, attempt).directory / LOG, _READ)
        except OSError:
            return LogSlice(offset, b"", end=True)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or offset >= status.st_size:
                return LogSlice(offset, b"", end=True)
            data = os.pread(descriptor, limit, offset)
            return LogSlice(offset, data, end=offset + len(data) >= os.fstat(descriptor).st_size)
        finally:
            os.close(descriptor)
