"""The keeper: one process per running agent that starts it, reads it, limits it, ends it and writes down how it ended.

It needs nobody: limits and kills work, and the ending is recorded, while spoke, worker and nursery are gone.
It refuses to leave anything behind: `exit.json` is written only after the last process of the agent has ended, or with
the number of survivors. Forked from the nursery, one thread, standard library only. When nothing but a usual end
happened and nothing of the run is left in it, the process keeps another agent afterwards (`nursery.py`).
"""

from __future__ import annotations

import enum
import math
import os
import select
import signal
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from spoke.supervision import linux
from spoke.supervision.agent_process import AgentProcess, MainEnd
from spoke.supervision.allowance import Allowance
from spoke.supervision.conversation import Conversation
from spoke.supervision.course import Action, Course
from spoke.supervision.execution import NO_ROOM, NoRoom, SpawnFailed, Streams, execute, take_note
from spoke.supervision.log_pump import LogPump
from spoke.supervision.masking import Masker
from spoke.supervision.run_dir import (
    CRASH,
    EXIT,
    KEEPER,
    LAUNCH,
    LOG,
    STDIN,
    TAIL,
    Ending,
    KeeperRecord,
    LaunchSpec,
    Receipt,
    SignalSent,
    decode_kill,
    decode_launch,
    encode_ending,
    encode_keeper,
    encode_launch,
    read_file,
    write_file,
)

KEEPER_TERMINATED: Final = "keeper_terminated"
"""Kill cause when the keeper itself got SIGTERM, as at a shutdown of the machine."""
STATUS_RUNNING: Final = b"running"
STATUS_ENDED: Final = b"ended"
_REHEARSAL: Final = LaunchSpec(argv=("",), cwd="/", env={}, timeout_s=1)
_MAX_WAIT_S: Final = 3600.0
_CHUNKS_PER_TURN: Final = 16
_EXIT_ATTEMPTS: Final = 60
_EXIT_RETRY_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class KeeperFds:
    """What a keeper gets: run directory, the held lock, the control FIFO (non-blocking), the starter's pipe.

    And what the nursery sees closed when the agent runs.
    """

    run: int
    lock: int
    control: int
    status: int
    nursery: int


def prepare() -> None:
    """Become a process that can keep an agent, whichever that will be: all that can be done before it is wanted."""
    signal.signal(signal.SIGCHLD, take_note)  # no more ignored, so that we learn how our children ended
    os.setsid()
    os.dup2(0, 2)  # whoever reads the spoke's log must not wait for agents; the rest of the nursery is /dev/null
    linux.become_subreaper()


def rehearse() -> None:
    """Go through what a start does and what needs no agent.

    In the nursery the interpreter adapts its code to what it sees, on pages that all keepers then share; in a keeper
    the pages that a start writes to are copied before it.
    """
    spec, _ = decode_launch(encode_launch(_REHEARSAL, ""))
    encode_keeper(_identity(linux.now_rfc3339()))
    Allowance(spec).close()
    LogPump(-1, -1, spec.log_cap_bytes, Masker(spec.masks))
    course = Course(time.monotonic(), timeout_s=spec.timeout_s, silence_s=spec.silence_s, grace_s=spec.grace_s)
    course.decide(time.monotonic(), empty=False)
    encode_ending(Ending("exited", linux.now_rfc3339()))


class Kept(enum.Enum):
    """What became of a process that kept an agent to its end."""

    AS_NEW = "as_new"
    """Nothing of the run is left here: no child, no descriptor, no handler. It may keep another agent."""
    SPENT = "spent"
    FAILED = "failed"


def keep(fds: KeeperFds, home_fd: int) -> Kept:
    """Run one agent from launch record to ending, after `prepare`; `home_fd` is where we are while we keep nobody."""
    os.fchdir(fds.run)
    linux.set_process_name("hubspoke-keeper")
    try:
        is_as_new = _keep_agent(fds)
    except NoRoom as error:
        _give_up(fds, str(error))
        return Kept.SPENT
    except Exception:
        write_file(CRASH, traceback.format_exc().encode(errors="replace"), fds.run, durable=False)
        return Kept.FAILED
    if not is_as_new:
        return Kept.SPENT
    os.fchdir(home_fd)  # before anybody hears that the run is over, and may remove its directory
    for fd in (fds.control, fds.lock, fds.run, fds.status):  # the starter learns from the last that it is over
        os.close(fd)
    return Kept.AS_NEW


def _keep_agent(fds: KeeperFds) -> bool:
    """Say whether nothing unusual happened and nothing is left."""
    spec, token = decode_launch(read_file(LAUNCH, fds.run) or b"")
    started_at = linux.now_rfc3339()
    try:
        _write_identity(fds.run, started_at)
        keeper = Keeper(spec, token, fds, started_at)
    except SpawnFailed as failure:
        ending = Ending("spawn_failed", linux.now_rfc3339(), started_at=started_at, detail=str(failure))
        _write_ending(fds.run, ending)
        _tell_starter(fds, STATUS_ENDED)
        return False
    _tell_starter(fds, STATUS_RUNNING)
    ending = keeper.run()
    _write_ending(fds.run, ending)
    return keeper.retire() and _is_usual(spec, ending)


def _is_usual(spec: LaunchSpec, ending: Ending) -> bool:
    """Say whether nothing but an agent that came to its end happened: after all else a new keeper is the safe one."""
    nothing_special = ending.cause == "exited" and ending.receipt is None and ending.detail is None
    return nothing_special and not spec.stream and ending.log_dropped == 0


def _write_identity(run_fd: int, started_at: str) -> None:
    """Write who keeps this agent, before there is one: no agent whose keeper cannot be found (fault 7)."""
    try:
        write_file(KEEPER, encode_keeper(_identity(started_at)), run_fd, durable=False)
    except OSError as error:
        raise _failed(KEEPER, error) from error


def _failed(what: str, error: OSError) -> SpawnFailed | NoRoom:
    """Return what it means that a start came to its end at this: what may be over soon is tried again."""
    return (NoRoom if error.errno in NO_ROOM else SpawnFailed)(f"{what}: {error.strerror}")


def _identity(started_at: str) -> KeeperRecord:
    me = linux.this_process()
    return KeeperRecord(me.pid, me.start_ticks, started_at)


def _give_up(fds: KeeperFds, reason: str) -> None:
    """Say why nothing was executed, to the starter and to whoever asks later: there may be room for it by then."""
    with suppress(OSError):  # who finds no ending knows as much, but for the reason
        write_file(EXIT, encode_ending(Ending("lost", linux.now_rfc3339(), detail=reason)), fds.run, durable=True)
    _tell_starter(fds, reason.encode())


def _tell_starter(fds: KeeperFds, status: bytes) -> None:
    with suppress(BrokenPipeError):  # the starter may be gone, the agent is not
        os.write(fds.status, status)  # and it stays open until we are done with the run
    os.close(fds.nursery)


def _write_ending(run_fd: int, ending: Ending) -> None:
    """Write how it ended; a full disk gets a minute to recover, and until then the run counts as running."""
    for attempt in range(1, _EXIT_ATTEMPTS + 1):
        try:
            return write_file(EXIT, encode_ending(ending), run_fd, durable=True)
        except OSError:
            if attempt == _EXIT_ATTEMPTS:
                raise
            time.sleep(_EXIT_RETRY_S)
    return None


class Keeper:
    """Starts the agent of `spec` and sees it to its end; raises SpawnFailed or NoRoom when it cannot be started."""

    def __init__(self, spec: LaunchSpec, token: str, fds: KeeperFds, started_at: str) -> None:
        now = time.monotonic()
        self._course = Course(now, timeout_s=spec.timeout_s, silence_s=spec.silence_s, grace_s=spec.grace_s)
        self._grace_s = spec.grace_s
        self._run_fd = fds.run
        self._control_fd = fds.control
        self._control_rest = b""
        self._terminated = False
        self._started_at = started_at
        self._signals: dict[str, str] = {}
        self._wake_fd = self._wake_on_signals()
        self._pump = self._start(spec, token)

    def _start(self, spec: LaunchSpec, token: str) -> LogPump:
        try:
            log_fd = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
            self._talk = Conversation(spec.turn_end) if spec.stream else None
            stdin_fd = _open_stdin() if self._talk is None else self._talk.stdin_fd
            self._pipe_fd, output_fd = os.pipe()
        except OSError as error:
            raise _failed("run directory", error) from error
        os.set_blocking(self._pipe_fd, False)
        self._agent = self._spawn(spec, token, stdin_fd, output_fd)
        os.close(output_fd)
        os.close(stdin_fd)
        masker = Masker(spec.masks)
        if self._talk is None:
            return LogPump(self._pipe_fd, log_fd, spec.log_cap_bytes, masker)
        return LogPump(self._pipe_fd, log_fd, spec.log_cap_bytes, masker, self._talk.watch)

    def _spawn(self, spec: LaunchSpec, token: str, stdin_fd: int, output_fd: int) -> AgentProcess:
        try:
            self._allowance = Allowance(spec)
            procs_fd = self._allowance.open_procs()
        except OSError as error:
            raise _failed(f"control group {spec.cgroup}", error) from error
        limited = replace(spec, limits=self._allowance.limits)
        try:
            pid = execute(limited, token, Streams(stdin_fd, output_fd, procs_fd), self._run_fd)
        except (NoRoom, SpawnFailed):
            self._allowance.close()
            raise
        finally:
            if procs_fd is not None:
                os.close(procs_fd)
        return AgentProcess(pid, group=self._allowance.group, wrapped=spec.wrapped)

    def _wake_on_signals(self) -> int:
        """Make SIGCHLD and SIGTERM readable, so that one poll waits for everything."""
        wake_fd, self._signal_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._signal_fd, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._on_sigterm)
        return wake_fd

    def _on_sigterm(self, *_: object) -> None:
        self._terminated = True

    def retire(self) -> bool:
        """Give back what `run` does not; says whether nothing of the agent is left and nobody asked us to end."""
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # before the look below: from here on it ends us
        signal.set_wakeup_fd(-1)
        os.close(self._wake_fd)
        os.close(self._signal_fd)
        return self._agent.is_empty() and not self._terminated

    def run(self) -> Ending:
        """Return how the agent ended, once nothing of it is left or the rest could not be ended."""
        poller = select.poll()
        for fd in (self._wake_fd, self._control_fd, self._pipe_fd):
            poller.register(fd, select.POLLIN)
        while True:
            wake_at = min(self._course.wake_at(), self._allowance.look_at())
            longest_s = math.inf if self._talk is None else self._talk.go_on(poller)
            wait_s = min(max(0.0, wake_at - time.monotonic()), longest_s, _MAX_WAIT_S)
            ready = {fd for fd, _ in poller.poll(math.ceil(wait_s * 1000))}
            if self._wake_fd in ready:
                _drain(self._wake_fd)
            if self._pipe_fd in ready and not self._pump_output():
                poller.unregister(self._pipe_fd)
            if self._turn(control_ready=self._control_fd in ready):
                return self._finish()

    def _turn(self, *, control_ready: bool) -> bool:
        """Take in what happened and act on it; says whether the run is over."""
        self._agent.reap()
        now = time.monotonic()
        if self._agent.main_end is not None:
            self._course.main_ended(now)  # before the requests: what ended by itself was not killed (fault 20)
        if control_ready:
            self._take_requests(now)
        if self._terminated:
            self._course.ask_kill(now, self._grace_s, KEEPER_TERMINATED)
            self._terminated = False
        if excess := self._allowance.find_excess(now):
            self._course.exceed(now, excess)
        return self._act(self._course.decide(now, empty=self._agent.is_empty()))

    def _act(self, action: Action) -> bool:
        if action is not Action.WAIT and self._talk is not None:
            self._talk.close()
        if action is Action.TERMINATE:
            self._note_signal("SIGTERM")
            self._agent.terminate()
        elif action is Action.KILL:
            self._note_signal("SIGKILL")
            self._agent.kill()
        return action is Action.FINISH

    def _note_signal(self, name: str) -> None:
        self._signals.setdefault(name, linux.now_rfc3339())

    def _pump_output(self) -> bool:
        """Move what is there, a bounded lot; says whether more may come."""
        for _ in range(_CHUNKS_PER_TURN):
            moved = self._pump.pump()
            if moved is None:
                return True
            if moved == 0:
                return False
            self._course.saw_output(time.monotonic())
        return True

    def _take_requests(self, now: float) -> None:
        *lines, self._control_rest = (self._control_rest + _drain(self._control_fd)).split(b"\n")
        self._control_rest = self._control_rest[-select.PIPE_BUF :]  # no sender writes more in one piece
        for request in filter(None, map(decode_kill, lines)):
            self._course.ask_kill(now, request.grace_s, request.cause)

    def _finish(self) -> Ending:
        survivors = self._agent.count_survivors()
        self._pump.finish()
        self._keep_tail()
        main_end = self._agent.main_end or MainEnd(None, None)
        cause = self._course.cause
        if cause == "exited" and main_end.exit_code != 0 and self._allowance.out_of_memory():
            cause = "oom"
        self._allowance.close()
        signals = tuple(SignalSent(name, at) for name, at in self._signals.items())
        return Ending(
            cause=cause or "exited",
            kill_cause=self._course.kill_cause,
            exit_code=main_end.exit_code,
            signal=main_end.signal,
            started_at=self._started_at,
            finished_at=linux.now_rfc3339(),
            log_bytes=self._pump.kept,
            log_dropped=self._pump.dropped,
            detail=self._allowance.excess or self._pump.problem,
            receipt=Receipt(signals, survivors) if signals else None,
        )

    def _keep_tail(self) -> None:
        if self._pump.tail:
            with suppress(OSError):  # as for the log itself: how it ended counts more
                write_file(TAIL, bytes(self._pump.tail), self._run_fd, durable=False)


def _open_stdin() -> int:
    """Return a descriptor of what the agent reads; raises OSError."""
    try:
        return os.open(STDIN, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:  # it reads nothing
        return os.open(os.devnull, os.O_RDONLY)


def _drain(fd: int) -> bytes:
    """Return everything a non-blocking descriptor has now, up to what a pipe holds."""
    with suppress(BlockingIOError):
        return os.read(fd, 65536)
    return b""
