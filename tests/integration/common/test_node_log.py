from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from common.errors import LocalError
from common.node_log import NodeLog


@pytest.fixture(autouse=True)
def _configured_back() -> Iterator[None]:
    yield
    structlog.reset_defaults()


@pytest.fixture
def log() -> NodeLog:
    return NodeLog()


def lines(path: Path) -> list[str]:
    return [line.partition('"event": "')[2].partition('"')[0] for line in path.read_text().splitlines()]


def test_a_renamed_file_is_left_alone_once_the_log_was_opened_again(tmp_path: Path, log: NodeLog) -> None:
    file, former = tmp_path / "hub.log", tmp_path / "hub.log.1"
    log.open(file, "info")
    bound = structlog.get_logger("x").bind()
    bound.info("one")
    file.rename(former)
    bound.info("two")
    log.open(file, "info")
    bound.info("three")  # bound before: it has the file that was open then
    structlog.get_logger("x").info("four")
    assert (lines(former), lines(file)) == (["one", "two"], ["three", "four"])
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_file_that_was_copied_and_truncated_goes_on_at_its_beginning(tmp_path: Path, log: NodeLog) -> None:
    file = tmp_path / "hub.log"
    log.open(file, "info")
    structlog.get_logger("x").info("one")
    os.truncate(file, 0)
    structlog.get_logger("x").info("two")
    assert lines(file) == ["two"]
    assert b"\0" not in file.read_bytes()


def test_the_level_decides_and_stderr_takes_over_again(
    tmp_path: Path, log: NodeLog, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "hub.log"
    log.open(file, "warning")
    structlog.get_logger("x").info("quiet")
    structlog.get_logger("x").warning("loud")
    log.open(None, "debug")
    structlog.get_logger("x").debug("to stderr")
    assert lines(file) == ["loud"]
    assert "to stderr" in capsys.readouterr().err


def test_a_file_that_cannot_be_opened_leaves_the_log_where_it_was(tmp_path: Path, log: NodeLog) -> None:
    file = tmp_path / "hub.log"
    log.open(file, "info")
    with pytest.raises(LocalError, match="No such file or directory") as refusal:
        log.open(tmp_path / "missing" / "hub.log", "error")
    assert refusal.value.code == "log_file"
    structlog.get_logger("x").info("still here")
    assert lines(file) == ["still here"]


@pytest.mark.fault(29)
def test_a_full_disk_loses_lines_and_nothing_else(tmp_path: Path, log: NodeLog) -> None:
    log.open(Path("/dev/full"), "info")
    structlog.get_logger("x").info("lost")
    log.open(tmp_path / "hub.log", "info")
    structlog.get_logger("x").info("kept")
    assert lines(tmp_path / "hub.log") == ["kept"]
