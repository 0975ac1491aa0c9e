"""The janitor beside a real queue, real runs, workspaces and mirrors: what goes, what stays, and never what lives."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from common.clock import SystemClock
from common.repository import parse_repository
from spoke import janitor
from spoke.agent_record import AgentRef
from spoke.disk_usage import disk_usage
from spoke.git import Git
from spoke.janitor import Janitor, Keep, Removed
from spoke.occupancy import Occupancy
from spoke.queue import Queue
from spoke.runs import Runs
from spoke.supervision.run_dir import LaunchSpec
from spoke.supervision.supervisor import Supervisor
from spoke.workspace import Workspace, Workspaces
from tests.integration.spoke.queue_rig import TENANT, Rig, id_of, resume, spawn
from tests.integration.spoke.repositories import commit, git, make_repository, write

DAY_MS = 24 * 3600 * 1000
KEEP = Keep(retention_ms=30 * DAY_MS, mirror_ms=10 * DAY_MS)


@dataclass
class LaterClock(SystemClock):
    """The real time and some days."""

    days: int = 0

    def now_ms(self) -> int:
        return super().now_ms() + self.days * DAY_MS


@dataclass
class Place:
    """Everything a janitor looks after."""

    rig: Rig
    directory: Path
    supervisor: Supervisor
    source: Path
    clock: LaterClock = field(default_factory=LaterClock)

    def __post_init__(self) -> None:
        self.directory.mkdir(exist_ok=True)
        self.occupancy = Occupancy(self.directory)
        self.runs = Runs(self.directory / "runs")
        self.workspaces = Workspaces(self.directory / "workspaces", git=Git(os.environ), timeout_s=20)

    def janitor(self, keep: Keep = KEEP) -> Janitor:
        return Janitor(self.rig.queue, self.runs, self.workspaces, self.supervisor, self.occupancy, self.clock, keep)

    async def sweep(self, keep: Keep = KEEP, **options: bool) -> list[tuple[str, str]]:
        return [(each.kind, each.reason) for each in await self.janitor(keep).sweep(**options)]

    async def accept(self, number: int) -> AgentRef:
        await self.rig.accept(spawn(number))
        return AgentRef(TENANT, id_of(number))

    async def end(self, number: int, status: str = "completed") -> AgentRef:
        """Accept an agent and take it to its end."""
        claim = await self.rig.running(number)
        assert await self.rig.queue.finish(claim, status, {})
        return claim.record.ref

    async def forget(self, ref: AgentRef) -> None:
        """Let the record expire."""
        await self.rig.client.delete(f"{self.rig.prefix}agent:{ref.tenant}:{ref.agent_id}")

    def make_run(self, ref: AgentRef, attempt: int = 1, size: int = 10) -> Path:
        run = self.runs.run(ref, attempt)
        run.make(b"{}")
        (run.directory / "log").write_bytes(b"x" * size)
        return run.directory

    async def prepare(self, ref: AgentRef) -> Workspace:
        repository = parse_repository(f"file://{self.source}")
        return await self.workspaces.prepare(ref.tenant, ref.agent_id, repository, "main")

    def refs(self) -> list[str]:
        (mirror,) = (self.directory / "workspaces").glob("mirrors/*/*.git")
        return git(mirror, "for-each-ref", "--format=%(refname)", "refs/hubspoke/").splitlines()


@pytest.fixture
async def place(valkey: Redis, key_prefix: str, tmp_path: Path) -> AsyncIterator[Place]:
    async with Supervisor() as supervisor:
        yield Place(Rig(valkey, key_prefix), tmp_path / "spoke", supervisor, make_repository(tmp_path / "source"))


# --- by age


async def test_what_is_left_of_an_expired_agent_goes(place: Place) -> None:
    ref = await place.end(1)
    run, workspace = place.make_run(ref), await place.prepare(ref)
    write(workspace.tree, {"left.txt": "uncommitted"})
    await place.workspaces.collect(workspace)
    assert any("preserved" in name for name in place.refs())
    await place.forget(ref)
    place.clock.days = 31
    assert await place.sweep(Keep(30 * DAY_MS, 100 * DAY_MS)) == [
        ("run", "expired"),
        ("workspace", "expired"),
        ("refs", "expired"),
        ("names", "expired"),
    ]
    assert not run.exists()
    assert not workspace.path.exists()
    assert not [name for name in place.refs() if ref.agent_id in name]
    assert await place.rig.queue.find(ref.agent_id) == []
    assert await place.sweep(Keep(30 * DAY_MS, 100 * DAY_MS)) == []


@pytest.mark.parametrize(
    ("days", "forgotten"),
    [
        pytest.param(31, False, id="its record is still there"),
        pytest.param(29, True, id="the store forgot it, but its time is not over"),
    ],
)
async def test_what_is_to_be_kept_stays(place: Place, days: int, forgotten: bool) -> None:
    ref = await place.end(1)
    run, workspace = place.make_run(ref), await place.prepare(ref)
    if forgotten:
        await place.forget(ref)
    place.clock.days = days
    assert [kind for kind, _ in await place.sweep() if kind != "names"] == []
    assert run.exists()
    assert workspace.tree.exists()
    assert place.refs() != []


async def test_a_dry_run_removes_nothing_and_says_the_same(place: Place) -> None:
    ref = await place.end(1)
    run, workspace = place.make_run(ref), await place.prepare(ref)
    await place.forget(ref)
    place.clock.days = 31
    foretold = await place.sweep(dry_run=True)
    assert run.exists()
    assert workspace.tree.exists()
    assert foretold == [("run", "expired"), ("workspace", "expired")]
    assert (await place.sweep())[:2] == foretold


# --- never what lives


async def test_a_process_that_runs_is_never_swept_whatever_the_store_says(place: Place, tmp_path: Path) -> None:
    ref = AgentRef(TENANT, id_of(1))
    run = place.make_run(ref)
    script = "import signal, time; signal.alarm(20); time.sleep(20)"
    await place.supervisor.start(
        run, LaunchSpec((sys.executable, "-I", "-S", "-c", script), str(tmp_path), {}, timeout_s=30)
    )
    place.clock.days = 365
    try:
        assert await place.sweep() == []
        assert run.exists()
    finally:
        await place.supervisor.kill(run, 0, "test")
        await place.supervisor.wait(run)
    assert await place.sweep() == [("run", "expired")]


@pytest.mark.parametrize("state", ["queued", "spawning", "running"])
async def test_an_agent_that_has_not_ended_keeps_everything(place: Place, state: str) -> None:
    ref = await place.accept(1)
    if state != "queued":
        claim = await place.rig.claimed()
        if state == "running":
            await place.rig.queue.started(claim, 1)
    run, workspace = place.make_run(ref), await place.prepare(ref)
    (workspace.path / "workspace.json").unlink()  # as while it is being made
    place.clock.days = 365
    assert await place.sweep(Keep(1, 1, disk_bytes=1)) == []
    assert run.exists()
    assert workspace.tree.exists()


async def test_what_somebody_works_on_is_left_for_the_next_time(place: Place) -> None:
    ref = await place.end(1)
    run, workspace = place.make_run(ref), await place.prepare(ref)
    await place.forget(ref)
    place.clock.days = 31
    async with place.occupancy.hold(ref):
        assert [kind for kind, _ in await place.sweep() if kind != "names"] == []
        assert run.exists()
        assert workspace.tree.exists()
    assert {kind for kind, _ in await place.sweep()} >= {"run", "workspace"}


async def test_an_agent_that_begins_while_the_janitor_deletes_finds_everything_whole(place: Place) -> None:
    """Its record comes back after the janitor found none, and before all of the former life is deleted."""
    place.clock.days = 365
    ref, over = AgentRef(TENANT, id_of(1)), asyncio.Event()

    async def sweep_on() -> None:
        while not over.is_set():
            await place.janitor(Keep(1, 1)).sweep()

    async def live() -> None:
        for _ in range(5):
            await place.accept(1)
            async with place.occupancy.hold(ref):
                workspace, run = await place.prepare(ref), place.make_run(ref)
                for number in range(4000):
                    (run / str(number)).touch()
                await asyncio.sleep(0.2)  # what was being deleted would be gone by now
                assert (workspace.tree / "README.md").exists()
                assert (run / "task.json").exists()
            await place.forget(ref)
            with suppress(FileNotFoundError):  # all of it is gone already
                while len(os.listdir(run)) > 4000:  # noqa: PTH208, ASYNC110 - how many; the janitor tells nobody
                    await asyncio.sleep(0)
        over.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(sweep_on())
        group.create_task(live())


async def test_a_mirror_is_not_deleted_under_an_agent_that_begins(place: Place) -> None:
    """Deleting waits for the mirror's lock; whoever came to use it in the meantime keeps it."""
    ref = await place.end(1)
    workspace = await place.prepare(ref)
    await place.workspaces.remove(workspace)
    ((_, mirror),) = place.workspaces.mirrors()

    async def may_go() -> bool:
        return not place.occupancy.holds_any_of(TENANT)

    async with place.occupancy.hold(ref):
        assert await mirror.delete(may_go) is False
        assert mirror.path.exists()
    assert await mirror.delete(may_go) is True
    assert (await place.prepare(ref)).tree.exists()


# --- leftovers of a crash


@pytest.mark.fault(6)
async def test_a_workspace_that_was_never_finished_goes_once_its_agent_has_ended(place: Place) -> None:
    ref = await place.end(1, "killed")
    workspace = await place.prepare(ref)
    (workspace.path / "workspace.json").unlink()
    assert await place.sweep() == [("workspace", "half_made")]
    assert not workspace.path.exists()


async def test_an_ended_agent_s_workspace_that_could_not_be_read_stays_for_a_human(place: Place) -> None:
    workspace = await place.prepare(await place.end(1, "failed"))
    assert await place.sweep() == []
    assert workspace.tree.exists()


async def test_a_mirror_whose_deletion_was_cut_short_goes(place: Place) -> None:
    gone = place.directory / "workspaces" / "mirrors" / TENANT / "0123.gone"
    (gone / "objects").mkdir(parents=True)
    await place.sweep()
    assert not gone.exists()


# --- mirrors


async def test_a_mirror_that_nobody_used_for_long_goes(place: Place) -> None:
    ref = await place.end(1)
    await place.workspaces.remove(await place.prepare(ref))
    place.clock.days = 9
    assert await place.sweep() == []
    place.clock.days = 11
    assert await place.sweep() == [("mirror", "unused")]
    assert place.workspaces.mirrors() == []


@pytest.fixture
def _soon_cluttered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spoke.mirror._MANY_PACKS", 2)
    monkeypatch.setattr("spoke.mirror._MANY_LOOSE", 10)


@pytest.mark.usefixtures("_soon_cluttered")
async def test_a_mirror_that_is_fetched_into_again_and_again_is_packed(place: Place) -> None:
    kept = await place.prepare(await place.end(1))
    write(kept.tree, {"kept.txt": "uncommitted"})
    await place.workspaces.collect(kept)
    await place.workspaces.remove(kept)
    for number in range(2, 6):
        commit(place.source, {f"{number}.txt": str(number)}, "more")
        await place.workspaces.remove(await place.prepare(await place.end(number)))
    ((_, mirror),) = place.workspaces.mirrors()
    lost = git(mirror.path, "hash-object", "-w", "--stdin", stdin="nobody needs it").strip()
    assert mirror.is_cluttered()
    borrower = await place.prepare(await place.end(6))
    assert await place.sweep() == [], "a workspace borrows its objects"
    await place.workspaces.remove(borrower)
    assert await place.sweep(dry_run=True) == [("objects", "cluttered")]
    assert mirror.is_cluttered()
    before = place.refs()
    assert await place.sweep() == [("objects", "cluttered")]
    assert not mirror.is_cluttered()
    assert (place.refs(), git(mirror.path, "fsck", "--connectivity-only").strip()) == (before, "")
    assert await mirror.git("cat-file", "--batch-check", stdin=lost.encode()) == f"{lost} missing\n".encode()
    assert (await place.prepare(await place.end(7))).tree.joinpath("5.txt").exists()


@pytest.mark.usefixtures("_soon_cluttered")
async def test_a_mirror_is_not_packed_under_an_agent_that_begins(place: Place) -> None:
    await place.workspaces.remove(await place.prepare(await place.end(1)))
    ((_, mirror),) = place.workspaces.mirrors()

    async def begins() -> bool:
        return False

    assert await mirror.tidy(begins) is False


@pytest.mark.parametrize("kept", ["a workspace", "work"])
async def test_a_mirror_with_something_in_it_stays(place: Place, kept: str) -> None:
    workspace = await place.prepare(await place.end(1))
    if kept == "work":
        write(workspace.tree, {"left.txt": "uncommitted"})
        await place.workspaces.remove(workspace)
    place.clock.days = 11
    assert await place.sweep() == []
    assert len(place.workspaces.mirrors()) == 1


# --- by size


async def test_the_runs_of_those_that_ended_first_go_when_the_disk_is_overfull(place: Place) -> None:
    mib = 1024 * 1024
    runs = []
    for number in (3, 1, 2):
        runs.append(place.make_run(await place.end(number), size=mib))
        await asyncio.sleep(0.002)
    living = place.make_run(await place.accept(4), size=mib)
    total = await disk_usage(place.runs.root)
    assert await place.sweep(Keep(30 * DAY_MS, DAY_MS, disk_bytes=total)) == []
    assert await place.sweep(Keep(30 * DAY_MS, DAY_MS, disk_bytes=total - mib * 3 // 2)) == [("run", "disk_full")] * 2
    assert [run.exists() for run in runs] == [False, False, True]
    assert await place.sweep(Keep(30 * DAY_MS, DAY_MS, disk_bytes=1)) == [("run", "disk_full")]
    assert living.exists()


async def test_disk_usage_of_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 100_000)
    assert await disk_usage(tmp_path / "file", tmp_path / "absent") >= 100_000
    assert await disk_usage(tmp_path / "absent") == 0


# --- the index


async def test_names_without_records_leave_the_index_page_by_page(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spoke.queue._SWEPT_AT_ONCE", 3)
    await place.rig.accept_many(range(1, 11))
    for number in (1, 2, 5, 9, 10):
        await place.forget(AgentRef(TENANT, id_of(number)))
    assert await place.rig.queue.forget_expired() == 5
    assert len(await place.rig.queue.newest(100)) == 5
    assert await place.rig.queue.forget_expired() == 0


# --- going wrong


async def test_what_cannot_be_removed_is_left_and_the_rest_goes(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    refs = [await place.end(number) for number in (1, 2)]
    for ref in refs:
        place.make_run(ref)
        await place.forget(ref)
    place.clock.days = 31
    stuck = place.runs.directory(refs[0])

    async def refuse(path: Path) -> None:
        if path == stuck:
            raise OSError(16, "busy")
        await asyncio.to_thread(_remove, path)

    monkeypatch.setattr("spoke.janitor.delete_tree", refuse)
    assert ("run", "expired") in await place.sweep()
    assert stuck.exists()
    assert not place.runs.directory(refs[1]).exists()


def _remove(path: Path) -> None:
    for entry in sorted(path.rglob("*"), reverse=True):
        entry.rmdir() if entry.is_dir() else entry.unlink()
    path.rmdir()


async def test_what_was_removed_is_named(place: Place) -> None:
    ref = await place.end(1)
    place.make_run(ref)
    await place.forget(ref)
    place.clock.days = 31
    assert Removed("run", str(ref), "expired") in await place.janitor().sweep()


async def test_the_task_sweeps_again_and_again_and_survives_a_store_that_is_away(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spoke.janitor._FIRST_AFTER_S", 0.01)
    monkeypatch.setattr("spoke.janitor._EVERY_S", 0.01)
    ref = await place.end(1)
    run = place.make_run(ref)
    place.clock.days = 31
    janitor = place.janitor()
    away = Queue(Redis(unix_socket_path="/nonexistent/socket"), "build-1", place.rig.bounds)
    janitor._queue, there = away, janitor._queue
    task = asyncio.create_task(janitor.run())
    await asyncio.sleep(0.1)
    await place.forget(ref)
    janitor._queue = there
    await _until(lambda: not run.exists())
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await away._client.aclose()


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - a file tells nobody that it went
            await asyncio.sleep(0.01)


async def test_the_runs_of_one_that_was_resumed_meanwhile_are_not_taken_for_room(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had ended when the janitor looked for what may go, and waits for its next attempt when that is to go."""
    ref = await place.end(1)
    run = place.make_run(ref)

    async def measured(*paths: Path) -> int:
        monkeypatch.setattr(Janitor, "_records", resumed_after(Janitor._records))
        monkeypatch.setattr(janitor, "disk_usage", disk_usage)
        return await disk_usage(*paths)

    def resumed_after(records: Any) -> Any:
        async def looked(self: Any, refs: Any) -> Any:
            async for each in records(self, refs):
                yield each
            await place.rig.accept(resume(1, 100))

        return looked

    monkeypatch.setattr(janitor, "disk_usage", measured)
    assert await place.sweep(Keep(30 * DAY_MS, DAY_MS, disk_bytes=1)) == []
    assert run.exists()
