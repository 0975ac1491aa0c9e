"""The run directory: everything the spoke and a keeper say to each other about one agent start.

Names of the files, their contents as dataclasses, and reading and writing them. A record appears whole or not at all
(temporary file and rename). A record that cannot be understood counts as missing, so a damaged file can never pass for
an ending. Decides nothing about processes. Standard library only: the keeper imports it.

A keeper outlives the release of the spoke that started it, so both sides keep to one rule: members and control lines
are only ever added. Readers leave alone what they do not know, and do without what an older release did not write.
"""

from __future__ import annotations

import enum
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

LAUNCH: Final = "launch.json"
"""What to run; written before anything is forked and never replaced: an attempt is started at most once."""
STDIN: Final = "stdin"
"""What the agent reads: as it is, or as lines of messages (`input_feed`). Not there when it reads nothing."""
LOG: Final = "log"
"""stdout and stderr of the agent, as they came, up to the cap."""
TAIL: Final = "log.tail"
"""The last of what was dropped after the cap, unless nothing was: how it ended is told last."""
LOCK: Final = "keeper.lock"
"""Held from before the launch record exists until the keeper is done with the run: liveness without process ids.

The launch record is another name of this file: a file that is made costs more than all that is written into it."""
KEEPER: Final = "keeper.json"
CONTROL: Final = "control"
EXIT: Final = "exit.json"
CRASH: Final = "keeper.err"
"""Traceback of a keeper that failed; normally absent."""

TOKEN_NAME: Final = "HUBSPOKE_RUN"  # noqa: S105 - the name of a variable, no password
"""The one environment variable added to what was asked for, to find an agent whose keeper is gone (`mark_of`, too)."""

_MARKS: Final = 2**61
"""One less is a prime, so that all of a token counts."""
Cause = Literal["exited", "timeout", "silence", "killed", "oom", "processes", "spawn_failed", "lost"]
_CHUNK: Final = 65536
_CAUSES: Final = frozenset(get_args(Cause))


class RunState(enum.Enum):
    """What a run directory says about its agent."""

    NEVER_STARTED = "never_started"
    RUNNING = "running"
    ENDED = "ended"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of the agent; None is none, or for those of setrlimit the inherited one. Core dumps are off.

    The last two are for all of its processes together, kept by a control group or else by the keeper; the others are
    for each process (setrlimit), and `nproc` counts every process and thread of the user.
    """

    nofile: int | None = None
    fsize_bytes: int | None = None
    cpu_s: int | None = None
    as_bytes: int | None = None
    nproc: int | None = None
    memory_bytes: int | None = None
    tasks: int | None = None


@dataclass(frozen=True, slots=True)
class LaunchSpec:
    """One agent start: `env` is the complete environment, `stdin` is not part of the launch record.

    `cgroup` is the control group to be made for it. `wrapped` says that the main process is a sandbox which would take
    the agent along at once: what asks the agent to end goes to everything but it. `stream` says that `stdin` holds
    messages, to which more may be added, and that the agent's input stays open until it printed a line of the type
    `turn_end`. `masks` are the texts that must not get into the log.
    """

    argv: tuple[str, ...]
    cwd: str
    env: Mapping[str, str]
    timeout_s: float
    silence_s: float | None = None
    grace_s: float = 10.0
    log_cap_bytes: int = 16 * 1024 * 1024
    stdin: bytes = b""
    limits: Limits = field(default_factory=Limits)
    cgroup: str | None = None
    wrapped: bool = False
    stream: bool = False
    turn_end: str | None = None
    masks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SignalSent:
    """The first time a signal was sent to the agent's processes, RFC 3339."""

    signal: str
    at: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """What ending the agent took; `survivors` counts processes that could not be ended."""

    signals: tuple[SignalSent, ...]
    survivors: int


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ended. `exit_code` and `signal` are those of the agent's main process, at most one is set."""

    cause: Cause
    finished_at: str
    started_at: str | None = None
    kill_cause: str | None = None
    exit_code: int | None = None
    signal: str | None = None
    log_bytes: int = 0
    log_dropped: int = 0
    detail: str | None = None
    receipt: Receipt | None = None


@dataclass(frozen=True, slots=True)
class KeeperRecord:
    """Which process keeps the agent: a process id counts only together with its start time."""

    pid: int
    start_ticks: int
    started_at: str


@dataclass(frozen=True, slots=True)
class KillRequest:
    """One line in the control FIFO."""

    grace_s: float
    cause: str


def encode_launch(spec: LaunchSpec, token: str) -> bytes:
    """Return the launch record of `spec`; `token` marks every process of this run."""
    limits = {name: getattr(spec.limits, name) for name in Limits.__slots__}
    record = {
        "argv": list(spec.argv),
        "cwd": spec.cwd,
        "env": dict(spec.env),
        "timeout_s": spec.timeout_s,
        "silence_s": spec.silence_s,
        "grace_s": spec.grace_s,
        "log_cap_bytes": spec.log_cap_bytes,
        "cgroup": spec.cgroup,
        "wrapped": spec.wrapped,
        "stream": spec.stream,
        "turn_end": spec.turn_end,
        "masks": list(spec.masks),
        "limits": limits,
        "token": token,
    }
    return json.dumps(record).encode()


def decode_launch(content: bytes) -> tuple[LaunchSpec, str]:
    """Return the spec (without stdin) and the token; raises KeyError, TypeError, ValueError on anything else."""
    record = json.loads(content)
    token = str(record["token"])
    lists = {"argv": tuple(record["argv"]), "masks": tuple(record.get("masks", ()))}
    limits = Limits(**_known(record["limits"], Limits))
    return LaunchSpec(**{**_known(record, LaunchSpec), **lists, "limits": limits}), token


def mark_of(token: str) -> int:
    """Return the number that marks the processes of a run, too: far beyond anything that is meant as a limit."""
    return _MARKS + int.from_bytes(token.encode()) % (_MARKS - 1)


def _known(record: Mapping[str, Any], form: type[LaunchSpec | Limits]) -> dict[str, Any]:
    """Return the members that this release knows: one that is newer may have added some."""
    return {name: value for name, value in dict(record).items() if name in form.__slots__}


def encode_keeper(keeper: KeeperRecord) -> bytes:
    """Return `keeper.json`."""
    record = {"pid": keeper.pid, "startTicks": keeper.start_ticks, "startedAt": keeper.started_at}
    return json.dumps(record).encode()


def decode_keeper(content: bytes) -> KeeperRecord | None:
    """Return the keeper's identity, None for anything that is not one."""
    try:
        record = json.loads(content)
        return KeeperRecord(int(record["pid"]), int(record["startTicks"]), str(record["startedAt"]))
    except (ValueError, KeyError, TypeError):
        return None


INPUT_ADDED: Final = b'{"input": true}\n'
"""The control line after which the keeper looks for new messages; it looks after every control line."""


def encode_kill(request: KillRequest) -> bytes:
    """Return one control line of at most PIPE_BUF (4096) bytes, so that it is written whole; a longer cause is cut."""
    line: Mapping[str, Mapping[str, object]] = {"kill": {"grace_s": request.grace_s, "cause": request.cause[:200]}}
    return json.dumps(line).encode() + b"\n"


def decode_kill(line: bytes) -> KillRequest | None:
    """Return the request in one control line, None for anything else: a bad line must not harm a keeper."""
    try:
        kill = json.loads(line)["kill"]
        grace_s = float(kill["grace_s"])
        cause = str(kill["cause"])
    except (ValueError, KeyError, TypeError):
        return None
    return KillRequest(grace_s, cause) if 0 <= grace_s < float("inf") else None


def encode_ending(ending: Ending) -> bytes:
    """Return `exit.json`."""
    receipt = ending.receipt
    record = {
        "cause": ending.cause,
        "killCause": ending.kill_cause,
        "exitCode": ending.exit_code,
        "signal": ending.signal,
        "startedAt": ending.started_at,
        "finishedAt": ending.finished_at,
        "logBytes": ending.log_bytes,
        "logDropped": ending.log_dropped,
        "detail": ending.detail,
        "receipt": None if receipt is None else encode_receipt(receipt),
    }
    return json.dumps(record).encode()


def encode_receipt(receipt: Receipt) -> dict[str, Any]:
    """Return the kill receipt as JSON values, the form it also has in events."""
    signals = [{"signal": sent.signal, "at": sent.at} for sent in receipt.signals]
    return {"signals": signals, "survivors": receipt.survivors}


def decode_ending(content: bytes) -> Ending | None:
    """Return the ending, None for anything that is not one."""
    try:
        record = json.loads(content)
        if record["cause"] not in _CAUSES:
            return None
        return Ending(
            cause=record["cause"],
            finished_at=str(record["finishedAt"]),
            started_at=record["startedAt"],
            kill_cause=record["killCause"],
            exit_code=record["exitCode"],
            signal=record["signal"],
            log_bytes=int(record["logBytes"]),
            log_dropped=int(record["logDropped"]),
            detail=record["detail"],
            receipt=_decode_receipt(record["receipt"]),
        )
    except (ValueError, KeyError, TypeError):
        return None


def _decode_receipt(record: Mapping[str, Any] | None) -> Receipt | None:
    if record is None:
        return None
    signals: Sequence[Mapping[str, str]] = record["signals"]
    return Receipt(tuple(SignalSent(s["signal"], s["at"]) for s in signals), int(record["survivors"]))


def read_file(name: str, dir_fd: int) -> bytes | None:
    """Return the content of `name` in the run directory, None when there is none."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    except FileNotFoundError:
        return None
    try:
        content = b""
        while chunk := os.read(fd, _CHUNK):
            content += chunk
        return content
    finally:
        os.close(fd)


def write_file(name: str, content: bytes, dir_fd: int, *, durable: bool) -> None:
    """Let `name` appear whole or not at all, readable by us only; `durable` survives a power cut. Raises OSError."""
    temporary = f"{name}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(temporary, flags, 0o600, dir_fd=dir_fd)
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(fd, rest) :]
        if durable:
            os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(temporary, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
    if durable:
        os.fsync(dir_fd)


def link_file(name: str, fd: int, content: bytes, source: str, dir_fd: int) -> None:
    """Let the file `source`, open as `fd`, appear as `name`, too, whole or not at all. Raises OSError."""
    os.ftruncate(fd, 0)  # what a starter left that did not get as far as the link
    offset = 0
    while offset < len(content):
        offset += os.pwrite(fd, content[offset:], offset)
    os.link(source, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd, follow_symlinks=False)


def sync_file(name: str, dir_fd: int) -> None:
    """Return when what `write_file` wrote survives a power cut. Raises OSError."""
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    os.fsync(dir_fd)
