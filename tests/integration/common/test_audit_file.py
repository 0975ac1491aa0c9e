"""The audit file on a real disk: durable, shared with the command line, and closed when it cannot be written."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from common.audit import Verdict
from common.audit_directory import AuditDirectory, AuditUnreadable
from common.audit_file import Audit, AuditBounds, AuditUnavailable, acting
from common.audit_reading import Filter, select_lines, verify_audit
from common.clock import SystemClock
from common.errors import Unavailable
from common.trust_store import NewPeer, TrustStore
from tests.envelopes import HUB, HUB_KEY, OTHER_KEY, SPOKE, SPOKE_KEY


@pytest.fixture(autouse=True)
def _logs_as_they_come() -> Iterator[None]:
    """Undo what a command line that ran in this process made of the logs."""
    configured = structlog.get_config()
    structlog.reset_defaults()
    yield
    structlog.configure(**configured)


@pytest.fixture
def directory(tmp_path: Path) -> AuditDirectory:
    return AuditDirectory(tmp_path)


@contextmanager
def writing(directory: AuditDirectory, **bounds: int) -> Iterator[Audit]:
    audit = Audit(directory, HUB, HUB_KEY, SystemClock(), AuditBounds(**bounds))
    try:
        yield audit
    finally:
        audit.close()


def lines(directory: AuditDirectory, wanted: Filter | None = None) -> list[dict[str, Any]]:
    with directory.snapshot() as snapshot:
        return [dict(members) for members in select_lines(snapshot, wanted or Filter())]


def verdict(directory: AuditDirectory, since: str = "") -> Verdict:
    return verify_audit(directory, HUB, [HUB_KEY.public], since)


def said(directory: AuditDirectory) -> list[str]:
    return [finding.what for finding in verdict(directory).findings]


@contextmanager
def no_file_longer_than(size: int) -> Iterator[None]:
    """A disk that is full, for this process: writes end at `size` bytes of a file, the rest of one is refused."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class TestWriting:
    async def test_a_decision_is_a_line_with_who_and_what(self, directory: AuditDirectory) -> None:
        with writing(directory) as audit:
            audit.seal("start")
            with acting("token:ops"):
                audit.intend("command.received", peer=SPOKE, ids=["a"])
            await audit.record("command.decided", peer=SPOKE, outcome="accepted")
            audit.tell("peer.changed", {"peer": SPOKE, "state": "suspended"})
            audit.seal("stop")
        assert [(line["n"], line["event"], line["by"]) for line in lines(directory)] == [
            (2, "command.received", "token:ops"),
            (3, "command.decided", "node"),
            (4, "peer.changed", "node"),
        ]
        checked = verdict(directory)
        assert (checked.last, checked.unsealed, checked.findings) == (6, 0, ())

    async def test_files_are_for_their_owner_only(self, directory: AuditDirectory) -> None:
        with writing(directory) as audit:
            audit.seal("start")
        assert directory.path.stat().st_mode & 0o777 == 0o700
        assert directory.current.stat().st_mode & 0o777 == 0o600

    async def test_many_who_wait_share_a_visit_to_the_disk(self, directory: AuditDirectory) -> None:
        with writing(directory) as audit:
            audit.seal("start")
            await asyncio.gather(*(audit.record("command.decided", number=number) for number in range(200)))
        assert {line["number"] for line in lines(directory)} == set(range(200))

    async def test_a_line_is_on_the_disk_before_the_wait_ends(
        self, directory: AuditDirectory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        synced: list[int] = []
        real = os.fdatasync

        def fdatasync(file: int) -> None:
            real(file)
            synced.append(os.fstat(file).st_size)

        monkeypatch.setattr(os, "fdatasync", fdatasync)
        with writing(directory) as audit:
            await audit.record("command.decided")
            assert synced[-1] == directory.current.stat().st_size
            audit.tell("peer.added", {})
            assert synced[-1] == directory.current.stat().st_size

    async def test_a_chain_goes_on_over_restarts(self, directory: AuditDirectory) -> None:
        for _ in range(3):
            with writing(directory) as audit:
                audit.seal("start")
                await audit.record("command.decided")
                audit.seal("stop")
        assert (verdict(directory).last, said(directory)) == (9, [])

    async def test_a_cancelled_wait_harms_nobody(self, directory: AuditDirectory) -> None:
        with writing(directory) as audit:
            waits = asyncio.create_task(audit.record("command.decided"))
            await asyncio.sleep(0)
            waits.cancel()
            await audit.record("command.decided")
            audit.seal("stop")
        assert (verdict(directory).last, said(directory)) == (3, [])


class TestCheckpoints:
    async def test_come_with_enough_lines(self, directory: AuditDirectory) -> None:
        with writing(directory, checkpoint_lines=10) as audit:
            audit.seal("start")
            for _ in range(25):
                await audit.record("command.decided")
        found = lines(directory, Filter(event="audit.checkpoint"))
        assert [line["cause"] for line in found] == ["start", "lines", "lines"]
        assert verdict(directory).unsealed < 10

    async def test_come_with_time(self, directory: AuditDirectory) -> None:
        with writing(directory, checkpoint_s=0) as audit:
            audit.seal("start")
            await audit.record("command.decided")
            async with running(audit):
                await until(lambda: verdict(directory).unsealed == 0)

    async def test_do_not_come_while_nothing_happens(self, directory: AuditDirectory) -> None:
        with writing(directory, checkpoint_s=0) as audit:
            audit.seal("start")
            async with running(audit):
                await asyncio.sleep(0.6)
        assert verdict(directory).last == 1

    async def test_are_signed_by_the_keys_that_know_of_rotations(self, directory: AuditDirectory) -> None:
        with writing(directory) as audit:
            audit.sign_with(OTHER_KEY)
            audit.seal("start")
        assert verify_audit(directory, HUB, [OTHER_KEY.public]).findings == ()

    async def test_are_told_to_whoever_collects_the_log(self, directory: AuditDirectory) -> None:
        with capture_logs() as logs, writing(directory) as audit:
            audit.seal("start")
        witness = directory.read_witness()
        assert witness is not None
        assert [(log["number"], log["digest"]) for log in logs] == [(1, witness.digest)]


class running:  # noqa: N801  # reads as what it does
    """Runs the audit's task inside the block."""

    def __init__(self, audit: Audit) -> None:
        self._audit = audit

    async def __aenter__(self) -> None:
        self._task = asyncio.create_task(self._audit.run())

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # of a file, which tells nobody
            await asyncio.sleep(0.01)


class TestRefusals:
    @pytest.mark.attack(64)
    async def test_a_flood_is_a_line(self, directory: AuditDirectory) -> None:
        with writing(directory) as audit:
            async with running(audit):
                for _ in range(10_000):
                    audit.refuse("envelope.refused", "bad_signature", address="192.0.2.1", detail="unknown kid")
                await until(lambda: lines(directory) != [])
        (line,) = lines(directory)
        assert (line["outcome"], line["count"], line["addresses"]) == ("bad_signature", 10_000, ["192.0.2.1"])
        assert directory.current.stat().st_size < 1000

    async def test_what_was_counted_is_written_at_the_end(self, directory: AuditDirectory) -> None:
        with writing(directory) as audit:
            audit.refuse("token.refused", "unauthorized", peer=None)
            audit.seal("stop")
        assert [line["event"] for line in lines(directory)] == ["token.refused"]


@pytest.mark.fault(29)
class TestDiskFull:
    async def test_nothing_is_taken_and_no_half_line_stays(self, directory: AuditDirectory) -> None:
        with writing(directory) as audit, audit.serving(), capture_logs() as logs:
            size = directory.current.stat().st_size
            with no_file_longer_than(size + 50):
                with pytest.raises(AuditUnavailable):
                    audit.intend("command.received")
                with pytest.raises(Unavailable, match="nothing new is taken"):
                    await audit.record("command.decided")
                with pytest.raises(AuditUnavailable):
                    audit.tell("peer.added", {})
                assert not audit.is_available
                assert directory.current.stat().st_size == size
            assert [log["event"] for log in logs].count("audit.unavailable") == 1

    def test_the_command_line_has_the_error_and_no_log_beside_it(self, directory: AuditDirectory) -> None:
        directory.path.write_text("in the way")
        with writing(directory) as audit, capture_logs() as logs, pytest.raises(AuditUnavailable):
            audit.tell("peer.added", {})
        assert logs == []

    async def test_it_is_available_again_by_itself(self, directory: AuditDirectory) -> None:
        with writing(directory) as audit:
            audit.seal("start")
            async with running(audit):
                with no_file_longer_than(directory.current.stat().st_size):
                    audit.refuse("envelope.refused", "malformed")
                    await until(lambda: not audit.is_available)
                await until(lambda: audit.is_available)
            audit.seal("stop")
        assert "audit.resumed" in [line["event"] for line in lines(directory)]
        assert said(directory) == []

    async def test_a_disk_that_loses_what_it_took_is_told(
        self, directory: AuditDirectory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fdatasync(_file: int) -> None:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(os, "fdatasync", fdatasync)
        with writing(directory) as audit, pytest.raises(AuditUnavailable, match="Input/output error"):
            await audit.record("command.decided")

    def test_a_change_of_trust_that_cannot_be_written_is_none(self, directory: AuditDirectory) -> None:
        with writing(directory) as audit:
            audit.seal("start")
            trust = TrustStore(directory.node / "trust.db", HUB, HUB_KEY.public, audit.tell)
            try:
                peer = trust.add(NewPeer(SPOKE, "spoke", SPOKE_KEY.public, None, {}), "active", 1)
                trust.set_state(SPOKE, "suspended")
                suspended = trust.current().find(SPOKE)
                with no_file_longer_than(directory.current.stat().st_size), pytest.raises(Unavailable):
                    trust.set_state(SPOKE, "active")
                assert trust.current().find(SPOKE) == suspended != peer
            finally:
                trust.close()
        changes = [(line["event"], line["peer"], line["state"], line["kid"]) for line in lines(directory)]
        assert changes == [
            ("peer.added", SPOKE, "active", SPOKE_KEY.kid),
            ("peer.changed", SPOKE, "suspended", SPOKE_KEY.kid),
        ]

    @pytest.mark.parametrize(
        ("event", "fields"),
        [
            ("peer.changed", {"peer": SPOKE, "state": "suspended"}),
            ("peer.changed", {"peer": SPOKE, "state": "revoked"}),
            ("token.revoked", {"token": "ops"}),
            ("invite.withdrawn", {"invite": "x"}),
            ("peer.key_revoked", {"peer": SPOKE}),
        ],
    )
    def test_what_takes_trust_away_is_not_held_up(
        self, directory: AuditDirectory, event: str, fields: dict[str, str]
    ) -> None:
        with writing(directory) as audit, capture_logs() as logs:
            audit.seal("start")
            with no_file_longer_than(directory.current.stat().st_size), acting("cli:0"):
                audit.tell(event, fields)
        (unwritten,) = [log for log in logs if log["event"] == "audit.unwritten"]
        assert {**fields, "decision": event, "by": "cli:0"}.items() <= unwritten.items()

    async def test_what_must_not_fail_goes_to_the_log(self, directory: AuditDirectory) -> None:
        with writing(directory) as audit, capture_logs() as logs:
            audit.seal("start")
            with no_file_longer_than(directory.current.stat().st_size):
                await audit.note("kill.decided", agents=["a"])
            await audit.note("kill.decided", agents=["b"])
        assert [log["agents"] for log in logs if log["event"] == "audit.unwritten"] == [["a"]]
        assert [line["agents"] for line in lines(directory)] == [["b"]]

    async def test_what_the_disk_lost_while_something_else_was_done_is_told(
        self, directory: AuditDirectory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        failures = iter([OSError(5, "Input/output error")])

        def fdatasync(_file: int) -> None:
            # The kernel tells of what it lost once; the next call succeeds without it.
            for error in failures:
                raise error

        monkeypatch.setattr(os, "fdatasync", fdatasync)
        with writing(directory) as audit:
            kept = audit.begin("command.decided")
            await until(lambda: not audit.is_available)
            with pytest.raises(AuditUnavailable, match="Input/output error"):
                await kept()

    async def test_what_must_not_fail_and_the_disk_lost_goes_to_the_log(
        self, directory: AuditDirectory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fdatasync(_file: int) -> None:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(os, "fdatasync", fdatasync)
        with writing(directory) as audit, capture_logs() as logs:
            await audit.note("kill.decided", agents=["a"])
        assert [log["agents"] for log in logs if log["event"] == "audit.unwritten"] == [["a"]]

    async def test_a_directory_that_is_none(self, directory: AuditDirectory) -> None:
        directory.path.write_text("in the way")
        with writing(directory) as audit, pytest.raises(AuditUnavailable):
            audit.intend("command.received")
        directory.path.unlink()

    async def test_a_file_that_cannot_be_opened_again(self, directory: AuditDirectory) -> None:
        with writing(directory) as audit:
            audit.seal("start")
            directory.current.unlink()
            directory.current.mkdir()
            with pytest.raises(AuditUnavailable):
                audit.intend("command.received")
            directory.current.rmdir()
            audit.intend("command.received")
        assert [line["n"] for line in lines(directory)] == [2]


OTHER_PROCESS = """
import sys
from pathlib import Path
from common.audit_directory import AuditDirectory
from common.audit_file import Audit
from common.clock import SystemClock
from tests.envelopes import HUB, HUB_KEY
audit = Audit(AuditDirectory(Path(sys.argv[1])), HUB, HUB_KEY, SystemClock())
for number in range(int(sys.argv[2])):
    audit.tell("peer.changed", {"number": number})
audit.close()
"""


class TestBesideOthers:
    async def test_the_command_line_and_the_node_write_one_chain(self, directory: AuditDirectory) -> None:
        with writing(directory) as audit:
            audit.seal("start")
            command = [sys.executable, "-c", OTHER_PROCESS, str(directory.node), "40"]
            others = [await asyncio.create_subprocess_exec(*command) for _ in range(2)]
            while any(other.returncode is None for other in others):
                await audit.record("command.decided")
            assert [await other.wait() for other in others] == [0, 0]
            audit.seal("stop")
        assert said(directory) == []
        assert len(lines(directory, Filter(event="peer.changed"))) == 80

    def test_one_who_does_not_let_go_of_the_lock_is_not_waited_for_long(self, directory: AuditDirectory) -> None:
        with writing(directory) as audit:
            audit.intend("command.received")
            hold = f"import fcntl,sys; f=open({str(directory.path / 'lock')!r}); fcntl.flock(f, 2); print(); input()"
            with subprocess.Popen(
                [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            ) as holder:
                assert holder.stdout is not None
                holder.stdout.readline()
                started = time.monotonic()
                with pytest.raises(AuditUnavailable, match="another process holds its lock"):
                    audit.intend("command.received")
                assert time.monotonic() - started < 10
                holder.communicate(b"\n")
            audit.intend("command.received")


class TestMeddling:
    """What is done to the file while a node writes to it, or between two runs of it."""

    async def written(self, directory: AuditDirectory, meddle: Callable[[], object]) -> list[dict[str, Any]]:
        with writing(directory) as audit:
            audit.seal("start")
            await audit.record("command.decided", number=1)
            meddle()
            await audit.record("command.decided", number=2)
            audit.seal("stop")
        return lines(directory)

    async def test_cut(self, directory: AuditDirectory) -> None:
        found = await self.written(directory, lambda: os.truncate(directory.current, 100))
        assert [line.get("what") for line in found if line["event"] == "audit.tampered"] == ["the file was cut"]
        assert any("missing" in what or "is no line" in what for what in said(directory))

    async def test_removed(self, directory: AuditDirectory) -> None:
        found = await self.written(directory, directory.current.unlink)
        assert found[0]["what"] == "the file was removed or replaced"
        assert "lines 1 to 2 are missing, and no later line says that they were removed" in said(directory)

    async def test_replaced(self, directory: AuditDirectory) -> None:
        def replace() -> None:
            copy = directory.path / "copy"
            copy.write_bytes(directory.current.read_bytes().splitlines(keepends=True)[0] + b'{"half')
            copy.replace(directory.current)

        found = await self.written(directory, replace)
        assert [line["event"] for line in found] == ["audit.tampered", "audit.torn", "command.decided"]
        assert "lines 2 to 2 are missing" in said(directory)

    @pytest.mark.parametrize(
        ("added", "what"),
        [
            (b"no line\n", "somebody wrote what is no line"),
            (b'{"n":3,"prev":"","event":"x"}\n', "somebody wrote a line that does not follow"),
        ],
        ids=["garbage", "a line"],
    )
    async def test_added_to(self, directory: AuditDirectory, added: bytes, what: str) -> None:
        def add() -> None:
            with directory.current.open("ab") as file:
                file.write(added)

        found = await self.written(directory, add)
        assert what in [line.get("what") for line in found]
        assert said(directory) != []

    async def test_half_a_line_of_a_process_that_died(self, directory: AuditDirectory) -> None:
        def add() -> None:
            with directory.current.open("ab") as file:
                file.write(b'{"n":3,"pre')

        found = await self.written(directory, add)
        assert [(line["event"], line.get("bytes")) for line in found if line["event"] == "audit.torn"] == [
            ("audit.torn", 11)
        ]
        assert said(directory) == []

    async def between(self, directory: AuditDirectory, meddle: Callable[[], object]) -> list[dict[str, Any]]:
        for number in range(2):
            with writing(directory) as audit:
                audit.seal("start")
                await audit.record("command.decided", number=number)
                audit.seal("stop")
            if number == 0:
                meddle()
        return lines(directory)

    async def test_half_a_line_at_the_start(self, directory: AuditDirectory) -> None:
        def add() -> None:
            with directory.current.open("ab") as file:
                file.write(b'{"n":')

        assert "audit.torn" in [line["event"] for line in await self.between(directory, add)]
        assert said(directory) == []

    async def test_sealed_lines_removed_stay_missing(self, directory: AuditDirectory) -> None:
        def cut() -> None:
            first = directory.current.read_bytes().splitlines(keepends=True)[0]
            directory.current.write_bytes(first)

        found = await self.between(directory, cut)
        assert next(line.get("what") for line in found) == "sealed lines are missing"
        assert "lines 2 to 3 are missing" in said(directory)

    async def test_all_files_removed_stay_missing(self, directory: AuditDirectory) -> None:
        await self.between(directory, directory.current.unlink)
        assert "lines 1 to 3 are missing, and no later line says that they were removed" in said(directory)

    async def test_a_last_line_that_was_edited(self, directory: AuditDirectory) -> None:
        def edit() -> None:
            content = directory.current.read_bytes()
            directory.current.write_bytes(content[:-20] + b'"\n')

        await self.between(directory, edit)
        assert any("is no line of an audit file" in what for what in said(directory))

    async def test_no_line_left_that_is_one(self, directory: AuditDirectory) -> None:
        await self.between(directory, lambda: directory.current.write_bytes(b"x\n" * 9))
        assert said(directory) != []

    async def test_a_damaged_witness(self, directory: AuditDirectory) -> None:
        found = await self.between(directory, lambda: directory.witness.write_text("{}"))
        assert any("audit.head is damaged" in line.get("what", "") for line in found)
        directory.witness.write_text("no")
        with pytest.raises(AuditUnreadable, match=r"audit\.head is damaged"):
            verdict(directory)


class TestFullFiles:
    async def fill(self, directory: AuditDirectory, files: int) -> None:
        with writing(directory, file_bytes=1000, files=files) as audit:
            audit.seal("start")
            for number in range(60):
                await audit.record("command.decided", number=number)
            audit.seal("stop")

    async def test_the_chain_goes_on_through_them(self, directory: AuditDirectory) -> None:
        await self.fill(directory, 0)
        assert len(directory.full_files()) > 5
        assert [line["number"] for line in lines(directory, Filter(event="command.decided"))] == list(range(60))
        assert (verdict(directory).first, said(directory)) == (1, [])

    async def test_old_ones_go_and_that_is_said(self, directory: AuditDirectory) -> None:
        await self.fill(directory, 3)
        assert len(directory.full_files()) == 3
        assert verdict(directory).first > 1
        assert said(directory) == []

    async def test_one_that_somebody_else_removed_is_missed(self, directory: AuditDirectory) -> None:
        await self.fill(directory, 0)
        directory.full_files()[2].unlink()
        assert [what for what in said(directory) if "missing" in what] != []

    async def test_the_oldest_one_that_somebody_else_removed_is_missed(self, directory: AuditDirectory) -> None:
        await self.fill(directory, 3)
        directory.full_files()[0].unlink()
        assert "no later line says that they were removed" in said(directory)[0]

    async def test_a_start_right_after_a_cut_over(self, directory: AuditDirectory) -> None:
        await self.fill(directory, 0)
        directory.current.rename(directory.full_file(verdict(directory).last))
        with writing(directory) as audit:
            audit.seal("start")
        assert said(directory) == []


FILTERS: dict[str, tuple[Filter, list[int]]] = {
    "all": (Filter(), [2, 3, 4]),
    "event": (Filter(event="b"), [3]),
    "checkpoints": (Filter(event="audit.checkpoint"), [1]),
    "peer": (Filter(peer="p"), [2]),
    "who": (Filter(by="cli:0"), [4]),
    "outcome": (Filter(outcome="not_allowed"), [3]),
    "an id in a list": (Filter(about="id-2"), [2]),
    "an id deep down": (Filter(about="id-3"), [3]),
    "since": (Filter(since="9999"), []),
    "until": (Filter(until="2000"), []),
    "until a day in the future": (Filter(until="9999-12-31"), [2, 3, 4]),
}


class TestReading:
    async def test_while_the_node_writes(self, directory: AuditDirectory) -> None:
        with writing(directory, checkpoint_lines=5, file_bytes=2000, files=2) as audit:
            audit.seal("start")
            for number in range(100):
                await audit.record("command.decided", number=number)
                assert said(directory) == []

    async def test_lines_that_came_after_the_moment_are_left_out(self, directory: AuditDirectory) -> None:
        with writing(directory) as audit:
            audit.tell("before", {})
            with directory.snapshot() as snapshot:
                audit.intend("after")
                assert [line["event"] for line in select_lines(snapshot, Filter())] == ["before"]

    async def test_from_some_time_on(self, directory: AuditDirectory) -> None:
        with writing(directory) as audit:
            audit.seal("start")
            audit.tell("x", {})
            audit.seal("stop")
        at = lines(directory)[0]["at"]
        content = directory.current.read_bytes()
        directory.current.write_bytes(b"damaged\n" + content.split(b"\n", 1)[1])
        assert said(directory) != []
        assert verdict(directory, since=at).findings == ()
        assert verdict(directory, since="9999").last == 0

    def test_nothing_at_all(self, directory: AuditDirectory) -> None:
        assert (verdict(directory).last, lines(directory)) == (0, [])

    async def test_a_key_of_another_node(self, directory: AuditDirectory) -> None:
        with writing(directory) as audit:
            audit.seal("start")
        findings = verify_audit(directory, HUB, [OTHER_KEY.public]).findings
        (finding,) = findings
        assert finding.what == "no checkpoint by a key that the node holds: nothing is sealed"

    def test_a_file_that_cannot_be_read(self, directory: AuditDirectory) -> None:
        directory.current.mkdir(parents=True)
        with pytest.raises(AuditUnreadable):
            verdict(directory)

    @pytest.mark.parametrize(("wanted", "numbers"), FILTERS.values(), ids=FILTERS.keys())
    async def test_what_was_asked_for(self, directory: AuditDirectory, wanted: Filter, numbers: list[int]) -> None:
        with writing(directory) as audit:
            audit.seal("start")
            audit.intend("a", peer="p", ids=["id-1", "id-2"])
            audit.intend("b", outcome="not_allowed", decisions=[{"ids": ["id-3"]}])
            with acting("cli:0"):
                audit.intend("c")
        with directory.current.open("ab") as file:
            file.write(b"damaged\n")
        assert [line["n"] for line in lines(directory, wanted)] == numbers


def test_lines_are_json_for_other_programs(directory: AuditDirectory) -> None:
    with writing(directory) as audit:
        audit.intend("a", peer="p")
    assert [json.loads(line)["event"] for line in directory.current.read_text().splitlines()] == ["a"]


def test_a_change_of_trust_is_sealed_at_once(directory: AuditDirectory) -> None:
    with writing(directory) as audit:
        audit.tell("peer.added", {"peer": "p"})
    assert (verdict(directory).unsealed, said(directory)) == (0, [])
