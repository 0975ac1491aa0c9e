from __future__ import annotations

import os
from pathlib import Path

import pytest

from spoke.supervision.log_pump import LogPump


def pump_of(log: Path, cap_bytes: int) -> tuple[LogPump, int]:
    read_fd, write_fd = os.pipe()
    os.set_blocking(read_fd, False)
    return LogPump(read_fd, os.open(log, os.O_WRONLY | os.O_CREAT), cap_bytes), write_fd


@pytest.mark.parametrize(
    ("chunks", "kept", "dropped", "marked"),
    [
        pytest.param([b"abc", b"d"], 4, 0, False, id="below the cap"),
        pytest.param([b"abcde", b"fghij"], 10, 0, False, id="exactly the cap"),
        pytest.param([b"abcdefghijk"], 10, 1, True, id="one byte over"),
        pytest.param([b"abcdefghij", b"k", b"l"], 10, 2, True, id="over it later"),
    ],
)
def test_cap(tmp_path: Path, chunks: list[bytes], kept: int, dropped: int, marked: bool) -> None:
    pump, write_fd = pump_of(tmp_path / "log", 10)
    assert pump.pump() is None
    for chunk in chunks:
        os.write(write_fd, chunk)
        assert pump.pump() == len(chunk)
    os.close(write_fd)
    assert pump.pump() == 0
    pump.finish()
    marker = b"\n[hubspoke: capped at 10 bytes; the rest of the output is dropped]\n" if marked else b""
    assert (pump.kept, pump.dropped, pump.problem) == (kept, dropped, None)
    assert (tmp_path / "log").read_bytes() == b"".join(chunks)[:10] + marker


def test_finish_takes_the_rest_without_waiting_for_a_writer_that_stays(tmp_path: Path) -> None:
    pump, write_fd = pump_of(tmp_path / "log", 1 << 20)
    os.write(write_fd, b"x" * 65536)
    pump.finish()
    os.close(write_fd)
    assert (tmp_path / "log").read_bytes() == b"x" * 65536


@pytest.mark.fault(29)
def test_a_full_disk_drops_output_and_says_so() -> None:
    pump, write_fd = pump_of(Path("/dev/full"), 1 << 20)
    os.write(write_fd, b"lost")
    assert pump.pump() == 4
    os.write(write_fd, b"too")
    assert pump.pump() == 3
    pump.finish()
    os.close(write_fd)
    assert (pump.kept, pump.dropped, pump.problem) == (0, 7, "log: No space left on device")


def test_a_log_that_cannot_be_made_durable_is_a_problem_not_a_failure() -> None:
    pump, write_fd = pump_of(Path("/dev/null"), 1 << 20)
    os.write(write_fd, b"gone")
    os.close(write_fd)
    pump.finish()
    assert (pump.kept, pump.dropped, pump.problem) == (4, 0, "log: Invalid argument")
