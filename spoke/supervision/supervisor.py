"""The worker's port to running agents: start, wait, kill, state. It owns no agent, only the nursery.

Everything about a run is in its directory, so any `Supervisor`, in any process, can wait for and kill what another one
started. It refuses to start the same run twice, and it never reports an ending that is not recorded.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final, Self

from common.errors import HubspokeError, LocalError
from spoke.supervision import adoption, linux
from spoke.supervision.control import ask_to_end, tell
from spoke.supervision.keeper import STATUS_ENDED, STATUS_RUNNING
from spoke.supervision.nursery_client import DEFAULT_ENV, NurseryClient
from spoke.supervision.run_dir import (
    CONTROL,
    LAUNCH,
    LOCK,
    STDIN,
    Ending,
    LaunchSpec,
    RunState,
    encode_launch,
    link_file,
    read_file,
    sync_file,
    write_file,
)

_STARTS_AT_ONCE: Final = 8
_START_ATTEMPTS: Final = 4
_RECHECK_S: Final = 0.02
_LOOK_AGAIN_S: Final = 0.5
"""How long it takes at most to hear of the end of a run that another process started and whose keeper goes on."""


class LaunchRefused(LocalError):
    """This run directory has a launch record: its attempt was started, or lost while starting, and is not repeated."""

    code = "already_started"


class NeverStarted(LocalError):
    """There is nothing to wait for: the run directory holds no launch record."""

    code = "never_started"


class LaunchFailed(HubspokeError):
    """No agent runs. `spawn_failed`: its program cannot be executed. `lost`: the supervision failed; retryable."""

    code = "spawn_failed"


class Supervisor:
    """Async context manager; leaving it ends the nursery and no agent."""

    def __init__(self, *, nursery_env: Mapping[str, str] = DEFAULT_ENV) -> None:
        self._nursery = NurseryClient(nursery_env)
        self._starts_at_once = asyncio.Semaphore(_STARTS_AT_ONCE)
        self._working: set[asyncio.Task[None]] = set()
        self._unsynced: list[Path] = []
        self._running: dict[Path, tuple[int, asyncio.Event]] = {}
        """Of each run that was started here what its keeper holds open, and what is set when it does no more."""

    async def __aenter__(self) -> Self:
        if not linux.lists_children():
            raise LocalError("this kernel does not list children in /proc (CONFIG_PROC_CHILDREN); agents need it")
        self._nursery.ensure()
        return self

    async def __aexit__(self, *_: object) -> None:
        while self._working:
            await asyncio.wait(self._working)
        for run_dir, watched in tuple(self._running.items()):
            self._unwatch(run_dir, *watched)
        await asyncio.to_thread(self._nursery.stop)

    @property
    def nursery_pid(self) -> int | None:
        """The process id of the nursery, for whoever counts the spoke's own processes."""
        return self._nursery.pid

    async def start(self, run_dir: Path, spec: LaunchSpec) -> None:
        """Start the agent of `spec` and return when its program runs; `run_dir` exists and was never started.

        Cancelling the caller does not cancel the start: half a start would be a lost run. Raises LaunchRefused,
        LaunchFailed, OSError when the directory cannot be written.
        """
        run = _OpenRun(run_dir)
        await asyncio.shield(self._in_background(self._start(run, spec)))

    async def wait(self, run_dir: Path) -> Ending:
        """Return how the run ended, when it has; any number of waiters, also for runs of a former process.

        A run whose keeper is gone without an ending is cleaned up and reported as `lost`. Raises NeverStarted.
        """
        with adoption.opened(run_dir) as dir_fd:
            while (ending := adoption.read_ending(dir_fd)) is None:
                if (running := self._running.get(run_dir)) is not None:
                    await running[1].wait()
                elif (state := adoption.read_state(dir_fd)) is RunState.NEVER_STARTED:
                    raise NeverStarted(f"{run_dir} holds no launch record; start it first")
                elif state is RunState.RUNNING and (keeper_fd := adoption.open_keeper(dir_fd)) is not None:
                    await _ended(keeper_fd)  # or looked for long enough: it may keep another agent by now
                elif (lost := await asyncio.to_thread(_settle, run_dir)) is not None:
                    return lost
                else:
                    await asyncio.sleep(_RECHECK_S)  # a start, or another's cleaning up, of a few milliseconds
            return ending

    async def kill(self, run_dir: Path, grace_s: float, cause: str) -> None:
        """Ask for SIGTERM now and SIGKILL after `grace_s`; returns when asked, asking again may shorten the grace.

        The request is kept if the agent is just being started. Nothing happens when the run has ended or never began.
        """
        ask_to_end(run_dir, grace_s, cause)

    def send(self, run_dir: Path, message_id: str, message: bytes) -> None:
        """Give a running agent a message, one line without its end, once however often; blocks for a moment.

        Raises InputClosed when it takes none, or none any more, and OSError.
        """
        tell(run_dir, message_id, message)

    def state(self, run_dir: Path) -> RunState:
        """Return what is true of the run right now, whoever started it."""
        try:
            with adoption.opened(run_dir) as dir_fd:
                return adoption.read_state(dir_fd)
        except FileNotFoundError:
            return RunState.NEVER_STARTED

    def _in_background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._working.add(task)
        task.add_done_callback(self._working.discard)
        return task

    async def _start(self, run: _OpenRun, spec: LaunchSpec) -> None:
        with run.closing:
            async with self._starts_at_once:
                _write_launch(run.dir_fd, run.lock_fd, spec)
                status = await self._ask_nursery(run)
            _check_started(status, run.dir_fd)
        self._unsynced.append(run.path)
        if len(self._unsynced) == 1:
            self._in_background(self._sync())

    async def _sync(self) -> None:
        """Bring launch records to the disk, together what comes meanwhile: a task for a thread is dear."""
        while self._unsynced:
            count = len(self._unsynced)
            await asyncio.to_thread(_sync_launches, tuple(self._unsynced))
            del self._unsynced[:count]

    async def _ask_nursery(self, run: _OpenRun) -> bytes:
        """Return what the keeper says; a nursery that died is replaced as long as no agent can have been forked."""
        status = b""
        for _ in range(_START_ATTEMPTS):
            status_fd, keeper_status_fd = os.pipe()
            try:
                self._nursery.request((run.dir_fd, run.lock_fd, run.control_fd, keeper_status_fd))
            finally:
                os.close(keeper_status_fd)
            status = await _read_status(status_fd)
            if status == STATUS_RUNNING:
                self._watch(run.path, status_fd)
                break
            os.close(status_fd)
            if status or adoption.has_keeper_record(run.dir_fd):
                break
        return status

    def _watch(self, run_dir: Path, status_fd: int) -> None:
        """Note when the keeper closes its end; takes the descriptor."""
        done = asyncio.Event()
        self._running[run_dir] = status_fd, done
        asyncio.get_running_loop().add_reader(status_fd, self._unwatch, run_dir, status_fd, done)

    def _unwatch(self, run_dir: Path, status_fd: int, done: asyncio.Event) -> None:
        asyncio.get_running_loop().remove_reader(status_fd)
        os.close(status_fd)
        done.set()
        if self._running.get(run_dir) == (status_fd, done):  # another run may be at that path by now
            del self._running[run_dir]


class _OpenRun:
    """The descriptors a keeper will inherit: opened at once, before anything is awaited, closed by `closing`."""

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir
        with ExitStack() as stack:
            self.dir_fd = stack.enter_context(adoption.opened(run_dir))
            self.control_fd = _open_control(self.dir_fd)  # from here on a kill request is kept
            stack.callback(os.close, self.control_fd)
            lock_fd = adoption.take_lock(self.dir_fd)
            if lock_fd is None:
                raise LaunchRefused(f"{run_dir} is being started or running already")
            self.lock_fd = lock_fd
            stack.callback(os.close, lock_fd)
            self.closing = stack.pop_all()


def _check_started(status: bytes, dir_fd: int) -> None:
    """Raise LaunchFailed unless `status` says that the agent runs."""
    if status == STATUS_RUNNING:
        return
    ending = adoption.read_ending(dir_fd) if status == STATUS_ENDED else None
    if ending is not None:
        raise LaunchFailed(f"the agent could not be started: {ending.detail}")
    reason = status.decode(errors="replace") or "its keeper or the nursery died"
    failure = LaunchFailed(f"the agent was lost while being started: {reason}", code="lost")
    failure.retryable = True
    raise failure


def _open_control(dir_fd: int) -> int:
    """Return the control FIFO, made if need be; while this is open, or inherited, nothing written to it is lost."""
    with suppress(FileExistsError):
        os.mkfifo(CONTROL, 0o600, dir_fd=dir_fd)
    return os.open(CONTROL, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)


def _write_launch(dir_fd: int, lock_fd: int, spec: LaunchSpec) -> None:
    """Write stdin and then, as the fence, the launch record; raises LaunchRefused when there is one."""
    if read_file(LAUNCH, dir_fd) is not None:
        raise LaunchRefused("the run directory holds a launch record: an attempt is started at most once")
    # The agent does not wait until the disk has them: who could start it twice is on this machine and sees them; after
    # a power cut nobody starts this attempt again, for the claim that counted it was durable before.
    if spec.stdin or spec.stream:
        write_file(STDIN, spec.stdin, dir_fd, durable=False)
    link_file(LAUNCH, lock_fd, encode_launch(spec, secrets.token_hex(16)), LOCK, dir_fd)


def _sync_launches(run_dirs: Sequence[Path]) -> None:
    """Bring launch records to the disk; one that refuses takes nothing from the agent."""
    for run_dir in run_dirs:
        with suppress(OSError), adoption.opened(run_dir) as dir_fd:
            sync_file(LAUNCH, dir_fd)


def _settle(run_dir: Path) -> Ending | None:
    with adoption.opened(run_dir) as dir_fd:  # its own descriptor: the waiter may be cancelled meanwhile
        return adoption.settle_lost(dir_fd)


async def _read_status(status_fd: int) -> bytes:
    """Return the one message of the keeper, empty when it died without; closes what cannot be read."""
    try:
        await _readable(status_fd)
        return os.read(status_fd, 4096)
    except BaseException:
        os.close(status_fd)
        raise


async def _ended(pidfd: int) -> None:
    """Wait until the process ends, or for a while; closes the descriptor."""
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_AGAIN_S):
                await _readable(pidfd)
    finally:
        os.close(pidfd)


async def _readable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()  # unlike a future it may be set twice, and after a cancellation
    loop.add_reader(fd, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(fd)
