"""Attends to one claimed agent from its claim to its terminal state.

The order is the promise: **verify** the signed command again, prepare, **fence**, start, note, wait, collect, and
only then finish. Every step may be the last one before a crash; what a later attendant does (`resumed`) is decided by
what lies on disk: a run that was never started may be tried again, one that was started is waited for and never
started twice.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Final, TypeVar, cast

import structlog

from common.agent_state import TERMINAL, AgentType
from common.clock import Clock
from common.commands import DEFAULT_GRACE_S, Spawn
from common.errors import CommandRefused, HubspokeError, Unavailable
from common.repository import parse_repository
from spoke.agent_record import TamperedRecord
from spoke.agent_spans import AgentSpans, told_of_run
from spoke.bare import outcome_of, value_of
from spoke.conclusion import conclude
from spoke.held import Held, KilledBeforeStart, LeaseLost
from spoke.launching import Launcher, Resumption, Start
from spoke.outcome import final_fields
from spoke.patches import Patches
from spoke.permission import CannotAsk, Permission, StartedElsewhere
from spoke.publication import publish
from spoke.queue import Queue
from spoke.runs import Run, Runs
from spoke.supervision.keeper import KEEPER_TERMINATED
from spoke.supervision.run_dir import Ending, RunState
from spoke.supervision.supervisor import LaunchFailed, Supervisor
from spoke.workspace import Changes, Workspace, WorkspaceFailed, Workspaces
from spoke.workspace_watch import WorkspaceWatch

_log: Final = structlog.get_logger("agent")
_T = TypeVar("_T")
_PERSIST_PAUSE_S: Final = 1.0
_MAX_DETAIL: Final = 500
_NOBODY_DECIDES: Final = "its machine could not ask the node whether it may start"
_MAX_PAUSE_MS: Final = 60_000


def pause_ms(attempt: int, fraction: float) -> int:
    """Return the pause before the next attempt: doubling from 1 s to 60 s, between half and all of it (`fraction`)."""
    whole = min(1000 * 2 ** min(attempt, 6), _MAX_PAUSE_MS)
    return int(whole * (0.5 + 0.5 * fraction))


class Attendant:
    """Does the work for claims; holds no state between them."""

    def __init__(  # noqa: PLR0913  # everything that an attempt needs comes together here
        self,
        queue: Queue,
        permission: Permission,
        workspaces: Workspaces,
        supervisor: Supervisor,
        runs: Runs,
        launcher: Callable[[], Launcher],
        clock: Clock,
        *,
        spans: AgentSpans,
    ) -> None:
        self._queue = queue
        self._permission = permission
        self._workspaces = workspaces
        self._supervisor = supervisor
        self._runs = runs
        self._launcher = launcher
        self._patches = Patches(runs, workspaces)
        self._clock = clock
        self._spans = spans

    async def attend(self, held: Held, *, resumed: bool) -> None:
        """Take an agent to its end; returns when it is in a terminal state, queued again, or somebody else's."""
        with structlog.contextvars.bound_contextvars(
            agent_id=held.ref.agent_id, tenant=held.ref.tenant, attempt=held.claim.record.fields.get("attempt")
        ):
            launcher = self._launcher()
            try:
                run = self._run_of(held)
                # A run that the store forgot is no new one: it is waited for, and its workspace left as it is.
                begun = resumed or self._supervisor.state(run.directory) is not RunState.NEVER_STARTED
                if await (self._adopt(held, run) if begun else self._start(held, run, launcher)):
                    await self._see_through(held, run, launcher)
            except LeaseLost:
                _log.warning("agent.lease_lost")
            except TamperedRecord as error:
                _log.error("agent.tampered", reason=error.message)
                await self._finish_unstarted(held, "failed", "tampered", error.message)

    async def _start(self, held: Held, run: Run, launcher: Launcher) -> bool:
        """Start the agent; False when it was finished or queued again instead. Raises `LeaseLost`."""
        try:
            await self._launch(held, run, launcher)
        except KilledBeforeStart as killed:
            await self._finish_unstarted(held, "killed", killed.kill.cause, killed.kill.reason or "")
        except TamperedRecord:
            raise
        except CannotAsk as error:
            _log.warning("agent.given_back", reason=error.message)
            await self._persist(lambda: self._queue.give_back(held.claim, _NOBODY_DECIDES))
            held.end()
        except StartedElsewhere as error:
            await self._finish_unstarted(held, "failed", "lost", error.message)
        except CommandRefused as error:
            await self._finish_unstarted(held, "failed", "workspace_failed", error.message)
        except (HubspokeError, OSError) as error:
            # Only a run of which there is no trace may be tried again; of any other the directory knows the end.
            if self._supervisor.state(run.directory) is not RunState.NEVER_STARTED:
                return True
            await self._retry(held, _reason_of(error), str(error), may_help=_may_help(error))
        else:
            return True
        return False

    async def _launch(self, held: Held, run: Run, launcher: Launcher) -> None:
        record, asked = held.claim.record, held.claim.asked
        proved = await self._unless_killed(held, self._permission.prove(held.claim))
        spawn, (resume, again) = proved.spawn, proved.resume or (None, None)
        held.spans = self._spans.begin(record, proved.claims, again)
        watch = self._watch(held, launcher)
        workspace = await self._unless_killed(held, self._prepare(held, spawn, watch, anew=resume is None))
        resumption = None
        if resume is not None:
            earlier = await asyncio.to_thread(self._runs.earlier, held.ref, record.attempt)
            resumption = Resumption(resume.text, earlier)
        start = Start(record.attempt, resumption, held.spans.context)
        spec = await asyncio.to_thread(launcher.prepare, run, workspace, spawn, start)
        await asyncio.to_thread(run.keep_origin, record.fields, asked)
        await self._unless_killed(held, self._permission.start(held))
        await self._pass_fence(held)
        held.starting = True
        await self._supervisor.start(run.directory, spec)
        _log.info("agent.started", profile=launcher.profile(spawn.agent_type).name, task_id=spawn.task_id)

    async def _adopt(self, held: Held, run: Run) -> bool:
        """Look what a former worker left of the agent; False when it was queued again or failed."""
        state = self._supervisor.state(run.directory)
        _log.info("agent.adopted", run=state.value)
        held.spans = self._spans.adopt(held.claim.record, held.claim.asked)
        if state is RunState.NEVER_STARTED:
            await self._retry(held, "lost", "its worker ended before it was started", may_help=True)
            return False
        return True

    async def _prepare(self, held: Held, spawn: Spawn, watch: WorkspaceWatch, *, anew: bool) -> Workspace:
        make = self._workspaces.prepare if anew else self._workspaces.restore
        repository = parse_repository(spawn.context.repository)
        workspace = await make(held.ref.tenant, held.ref.agent_id, repository, spawn.context.branch)
        await watch.check()
        return workspace

    async def _unless_killed(self, held: Held, work: Coroutine[Any, Any, _T]) -> _T:
        """Return what `work` returns; raises `KilledBeforeStart` or `LeaseLost` as soon as one is known."""
        async with asyncio.TaskGroup() as group:
            working = group.create_task(outcome_of(work))
            watching = group.create_task(outcome_of(held.next_kill()))
            await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
            working.cancel()
            watching.cancel()
        if not watching.cancelled():
            raise KilledBeforeStart(value_of(watching))
        return value_of(working)

    async def _pass_fence(self, held: Held) -> None:
        verdict = await self._persist(lambda: self._queue.launch(held.claim))
        if verdict == "lost":
            raise LeaseLost
        if verdict == "killed":
            raise KilledBeforeStart(await held.next_kill())

    async def _see_through(self, held: Held, run: Run, launcher: Launcher) -> None:
        """Wait for a run that has begun, passing kills on, and finish it; raises `LeaseLost`."""
        if self._supervisor.state(run.directory) is RunState.RUNNING:
            await self._note_started(held)
        ending = await self._wait(held, run, self._watch(held, launcher))
        if ending.cause == "lost" or ending.kill_cause == KEEPER_TERMINATED:
            await self._retry(held, "lost", ending.detail or "the agent ended with its machine", may_help=True)
            return
        if ending.cause != "spawn_failed":
            await self._note_started(held)
        await self._conclude(held, run, launcher, ending)

    async def _note_started(self, held: Held) -> None:
        now_ms = self._clock.now_ms()
        if held.spans is not None:
            held.spans.started(now_ms)
        if not await self._persist(lambda: self._queue.started(held.claim, now_ms)):
            raise LeaseLost

    def _watch(self, held: Held, launcher: Launcher) -> WorkspaceWatch:
        record = held.claim.record
        limits = launcher.config(cast("AgentType", record.fields["type"])).limits
        return WorkspaceWatch(self._workspaces.places.agent(held.ref.tenant, held.ref.agent_id), limits.workspace_mib)

    async def _wait(self, held: Held, run: Run, watch: WorkspaceWatch) -> Ending:
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(outcome_of(self._supervisor.wait(run.directory)))
            passing = group.create_task(outcome_of(self._pass_kills(held, run)))
            watching = group.create_task(self._end_too_large(run, watch))
            await asyncio.wait((waiting, passing), return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            passing.cancel()
            watching.cancel()
        if not passing.cancelled():
            value_of(passing)
        return value_of(waiting)

    async def _pass_kills(self, held: Held, run: Run) -> None:
        while True:
            kill = await held.next_kill()
            _log.info("agent.kill_passed", reason=kill.cause, grace_s=kill.grace_s)
            await self._supervisor.kill(run.directory, kill.grace_s, kill.cause)

    async def _end_too_large(self, run: Run, watch: WorkspaceWatch) -> None:
        excess = await watch.until_too_large()
        _log.warning("agent.workspace_too_large", detail=excess)
        await self._supervisor.kill(run.directory, DEFAULT_GRACE_S, excess)

    async def _conclude(self, held: Held, run: Run, launcher: Launcher, ending: Ending) -> None:
        workspace = await asyncio.to_thread(self._workspaces.open, held.ref.tenant, held.ref.agent_id)
        changes = await self._collect(workspace)
        agent_type = cast("AgentType", held.claim.record.fields["type"])
        outcome = await asyncio.to_thread(conclude, run, ending, launcher, agent_type, changes)
        push = launcher.config(agent_type).push
        outcome = await publish(self._workspaces, push, workspace, changes, outcome)
        verdict = outcome.verdict
        if workspace is not None and changes is not None:
            await self._patches.settle(workspace, run, changes)  # whoever hears of the end may ask for it
        fields = final_fields(ending, verdict.reason, outcome.result)
        if outcome.problems:
            fields.setdefault("detail", "; ".join(outcome.problems))
        await self._finish(held, verdict.status, fields)
        held.tell_end(verdict.status, verdict.reason, told_of_run(ending.exit_code, outcome.result))
        await asyncio.to_thread(run.settle)
        _log.info("agent.finished", outcome=verdict.status, reason=verdict.reason, exit_code=ending.exit_code)
        if workspace is not None and changes is not None:
            await self._remove(workspace)

    async def _collect(self, workspace: Workspace | None) -> Changes | None:
        """Return what the agent changed; a workspace that cannot be read stays where it is, for a human."""
        if workspace is None:
            return None
        try:
            return await self._workspaces.collect(workspace)
        except WorkspaceFailed as error:
            _log.error("workspace.unreadable", reason=error.message, path=str(workspace.path))
            return None

    async def _remove(self, workspace: Workspace) -> None:
        try:
            await self._workspaces.remove(workspace)
        except WorkspaceFailed as error:
            _log.warning("workspace.left", reason=error.message, path=str(workspace.path))

    async def _finish_unstarted(self, held: Held, status: str, reason: str, detail: str) -> None:
        """Finish an agent of which no process was ever started."""
        fields = {"reason": reason, "detail": detail[:_MAX_DETAIL]}
        await self._finish(held, status, fields)
        held.tell_end(status, reason)
        _log.info("agent.finished", outcome=status, reason=reason)
        await self._clear(held)

    async def _finish(self, held: Held, status: str, fields: Mapping[str, str | int]) -> None:
        is_ours = await self._persist(lambda: self._queue.finish(held.claim, status, fields))
        held.end()
        if not is_ours:
            raise LeaseLost

    async def _clear(self, held: Held) -> None:
        """Keep what an agent without a result left behind, and remove its workspace."""
        workspace = await asyncio.to_thread(self._workspaces.open, held.ref.tenant, held.ref.agent_id)
        if workspace is not None:
            await self._remove(workspace)
        elif self._workspaces.places.exists(held.ref.tenant, held.ref.agent_id):
            await self._discard(held)

    async def _discard(self, held: Held) -> None:
        """Delete a workspace that was being made when the agent was killed: nothing of it is anybody's work."""
        try:
            await self._workspaces.discard(held.ref.tenant, held.ref.agent_id)
        except WorkspaceFailed as error:
            _log.warning("workspace.left", reason=error.message)

    async def _retry(self, held: Held, reason: str, detail: str, *, may_help: bool) -> None:
        pause = pause_ms(held.claim.record.attempt, random.random())  # noqa: S311  # spreads load, guards nothing
        outcome = await self._persist(
            lambda: self._queue.retry(held.claim, reason, detail[:_MAX_DETAIL], pause_ms=pause, may_help=may_help)
        )
        held.end()
        held.tell_end(outcome, reason)
        _log.warning("agent.failed_start", outcome=outcome, reason=reason, detail=detail)
        if outcome in TERMINAL:
            await self._clear(held)

    async def give_back(self, held: Held) -> None:
        """Return an agent to the queue that was not started, when this worker stops; the attempt does not count."""
        if not held.starting and self._supervisor.state(self._run_of(held).directory) is RunState.NEVER_STARTED:
            await self._queue.give_back(held.claim, "its worker stopped before it was started")

    def _run_of(self, held: Held) -> Run:
        return self._runs.run(held.ref, held.claim.record.attempt)

    async def _persist(self, write: Callable[[], Awaitable[_T]]) -> _T:
        """Repeat a write until Valkey takes it: what has happened to an agent must not be forgotten."""
        while True:
            try:
                return await write()
            except Unavailable as error:
                _log.warning("agent.state_not_written", reason=error.message)
                await asyncio.sleep(_PERSIST_PAUSE_S)


def _reason_of(error: Exception) -> str:
    if isinstance(error, LaunchFailed):
        return "spawn_failed"
    return "workspace_failed" if isinstance(error, WorkspaceFailed) else "lost"


def _may_help(error: Exception) -> bool:
    return error.retryable if isinstance(error, HubspokeError) else True
