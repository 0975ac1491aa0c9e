from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.directory import announced, announced_url, exclusive
from common.errors import LocalError

HOLD = """
import sys
from pathlib import Path
from common.directory import announced, exclusive
with exclusive(Path(sys.argv[1])), announced(Path(sys.argv[1]), "http://127.0.0.1:1"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that is the node of this directory."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_one_node_at_a_time(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(LocalError, match=str(tmp_path)) as refused, exclusive(tmp_path):
        pass
    assert refused.value.code == "already_running"


@pytest.mark.parametrize("ending", ["end", "SIGKILL"])
def test_the_lock_is_gone_with_its_holder_whatever_ends_it(
    ending: str, tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    if ending == "SIGKILL":
        holder.send_signal(signal.SIGKILL)
        holder.wait(10)
    else:
        holder.communicate(timeout=10)
    with exclusive(tmp_path):
        pass


def test_the_lock_is_given_back(tmp_path: Path) -> None:
    for _ in range(2):
        with exclusive(tmp_path):
            pass


def test_an_error_inside_gives_the_lock_back(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), exclusive(tmp_path):
        raise RuntimeError
    with exclusive(tmp_path):
        pass


def test_children_do_not_inherit_the_lock(tmp_path: Path) -> None:
    with exclusive(tmp_path):
        child = subprocess.Popen(
            [sys.executable, "-c", "print(flush=True); input()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            close_fds=False,
        )
        assert child.stdout is not None
        child.stdout.readline()
    try:
        with exclusive(tmp_path):
            pass
    finally:
        child.communicate(b"\n", timeout=10)


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="run init first") as refused, exclusive(tmp_path / "nowhere"):
        pass
    assert refused.value.code == "directory"


def test_the_url_is_there_while_the_node_is(tmp_path: Path) -> None:
    assert announced_url(tmp_path) is None
    with announced(tmp_path, "http://127.0.0.1:8701"):
        assert announced_url(tmp_path) == "http://127.0.0.1:8701"
        assert [each.name for each in tmp_path.iterdir()] == ["node.url"]
    assert announced_url(tmp_path) is None


@pytest.mark.attack(58)
def test_what_a_node_that_was_killed_left_is_not_believed(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    holder.kill()
    holder.wait(10)
    assert (tmp_path / "node.url").read_text() == "http://127.0.0.1:1\n"
    assert announced_url(tmp_path) is None
    with announced(tmp_path, "http://127.0.0.1:2"):
        assert announced_url(tmp_path) == "http://127.0.0.1:2"


def test_looking_does_not_keep_a_node_from_starting(tmp_path: Path) -> None:
    with announced(tmp_path, "http://127.0.0.1:1"):
        assert announced_url(tmp_path) == announced_url(tmp_path) == "http://127.0.0.1:1"
    with announced(tmp_path, "http://127.0.0.1:2"):
        assert announced_url(tmp_path) == "http://127.0.0.1:2"


def test_another_process_reads_the_url(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    assert announced_url(tmp_path) == "http://127.0.0.1:1"


def test_what_a_killed_node_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "node.url").write_text("http://127.0.0.1:1\n")
    (tmp_path / "node.url.new").write_text("half")
    with announced(tmp_path, "http://127.0.0.1:2"):
        assert announced_url(tmp_path) == "http://127.0.0.1:2"


def test_a_url_that_is_gone_already_is_no_error(tmp_path: Path) -> None:
    with announced(tmp_path, "http://127.0.0.1:2"):
        (tmp_path / "node.url").unlink()


@pytest.mark.parametrize("content", ["", "\n"])
def test_an_empty_file_says_nothing(content: str, tmp_path: Path) -> None:
    (tmp_path / "node.url").write_text(content)
    assert announced_url(tmp_path) is None


def test_a_directory_in_place_of_the_file_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "node.url").mkdir()
    assert announced_url(tmp_path) is None
