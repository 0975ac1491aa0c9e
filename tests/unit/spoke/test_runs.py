"""Where runs lie, and reading their logs piece by piece."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from spoke.agent_record import AgentRef, TamperedRecord
from spoke.runs import LogSlice, Runs
from tests.envelopes import id_of

REF = AgentRef("hub-eu_1", id_of(1))


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path / "runs")


def write_log(runs: Runs, content: bytes) -> Path:
    run = runs.run(REF, 1)
    run.make(b"{}")
    log = run.directory / "log"
    log.write_bytes(content)
    return log


@pytest.mark.attack(55)
@pytest.mark.parametrize(
    ("tenant", "agent_id"),
    [
        ("hub-eu_1", "../../../etc"),
        ("hub-eu_1", ""),
        ("hub-eu_1", "."),
        ("hub-eu_1", id_of(1) + "/.."),
        ("hub-eu_1", id_of(1) + "\0"),
        ("hub-eu_1", id_of(1).upper()),
        ("..", id_of(1)),
        (".", id_of(1)),
        (".hidden", id_of(1)),
        ("a/b", id_of(1)),
        ("/etc", id_of(1)),
        ("", id_of(1)),
        ("a\0b", id_of(1)),
    ],
)
def test_names_that_no_peer_and_no_agent_has_lead_nowhere(runs: Runs, tenant: str, agent_id: str) -> None:
    with pytest.raises(TamperedRecord):
        runs.run(AgentRef(tenant, agent_id), 1)


def test_a_run_has_a_place_of_its_own_that_only_we_can_enter(runs: Runs, tmp_path: Path) -> None:
    run = runs.run(REF, 2)
    assert run.directory == tmp_path / "runs" / "hub-eu_1" / id_of(1) / "2"
    for _ in range(2):
        run.make(b'{"task": 1}')
    assert run.task_file.read_bytes() == b'{"task": 1}'
    for directory in (run.directory, run.home, run.temporary, run.result_file.parent):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("content", "offset", "limit", "expected"),
    [
        (b"hello", 0, 100, LogSlice(0, b"hello", end=True)),
        (b"hello", 0, 5, LogSlice(0, b"hello", end=True)),
        (b"hello", 0, 4, LogSlice(0, b"hell", end=False)),
        (b"hello", 2, 2, LogSlice(2, b"ll", end=False)),
        (b"hello", 5, 9, LogSlice(5, b"", end=True)),
        (b"hello", 99, 9, LogSlice(99, b"", end=True)),
        (b"hello", 2**53 - 1, 9, LogSlice(2**53 - 1, b"", end=True)),
        (b"", 0, 9, LogSlice(0, b"", end=True)),
    ],
)
def test_slices(runs: Runs, content: bytes, offset: int, limit: int, expected: LogSlice) -> None:
    write_log(runs, content)
    assert runs.read_log(REF, 1, offset, limit) == expected


def test_a_run_that_was_never_made_has_an_empty_log(runs: Runs) -> None:
    assert runs.read_log(REF, 1, 0, 10) == LogSlice(0, b"", end=True)


@pytest.mark.attack(52)
@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_an_agent_that_put_something_else_there_shows_nothing_and_stops_nobody(
    runs: Runs, tmp_path: Path, kind: str
) -> None:
    log = write_log(runs, b"hello")
    log.unlink()
    secret = tmp_path / "secret"
    secret.write_text("a secret of the spoke")
    if kind == "link":
        log.symlink_to(secret)
    elif kind == "fifo":
        os.mkfifo(log)
    else:
        log.mkdir()
    assert runs.read_log(REF, 1, 0, 100) == LogSlice(0, b"", end=True)


CHARACTERS = {"ASCII": "abc", "two bytes": "äöü", "three": "€漢字", "four": "😀🏁"}


@pytest.mark.parametrize("text", CHARACTERS.values(), ids=CHARACTERS)
@pytest.mark.parametrize("limit", range(4, 9))
def test_no_piece_ends_inside_a_character(runs: Runs, text: str, limit: int) -> None:
    whole = f"x{text}y{text}"
    write_log(runs, whole.encode())
    read, offset, pieces = "", 0, 0
    while offset < len(whole.encode()):
        piece = runs.read_log(REF, 1, offset, limit).to_json(ended=False)
        assert piece["offset"] == offset
        read += str(piece["data"])
        assert piece["nextOffset"] != offset, "every piece must get on"
        offset = int(str(piece["nextOffset"]))
        pieces += 1
        assert pieces < 100
    assert read == whole


BROKEN: dict[str, tuple[bytes, bool, str, int, bool]] = {
    "character to come": (b"ab\xe2\x82", False, "ab", 2, False),
    "character that never came": (b"ab\xe2\x82", True, "ab\ufffd", 4, True),
    "only a part": (b"\xf0\x9f\x98", False, "\ufffd", 3, False),
    "no UTF-8": (b"ab\xff", False, "ab", 2, False),
    "no UTF-8 at the end": (b"ab\xff\xff", True, "ab\ufffd\ufffd", 4, True),
    "continuations": (b"ab\x80\x80\x80\x80", False, "ab\ufffd\ufffd\ufffd\ufffd", 6, False),
    "one byte": (b"\x80", False, "\ufffd", 1, False),
    "nothing": (b"", True, "", 0, True),
}


@pytest.mark.parametrize(("data", "ended", "text", "taken", "eof"), BROKEN.values(), ids=BROKEN)
def test_broken_characters(data: bytes, ended: bool, text: str, taken: int, eof: bool) -> None:
    piece = LogSlice(0, data, end=True).to_json(ended=ended)
    assert piece == {"offset": 0, "data": text, "nextOffset": taken, "eof": eof}


def test_the_log_of_a_running_agent_has_no_end() -> None:
    assert LogSlice(0, b"a", end=True).to_json(ended=False)["eof"] is False
    assert LogSlice(0, b"a", end=False).to_json(ended=True)["eof"] is False
