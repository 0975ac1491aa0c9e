from __future__ import annotations

import errno
import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from typing import Any

import click
import pytest

from common.command_line import (
    Output,
    Unreachable,
    parse_duration,
    print_facts,
    print_table,
    relative_time,
    run,
    safe,
)
from common.errors import LocalError, PeerError, Unavailable

HOSTILE = "x\n\x1b[31m\x9b2J\u202e\x7f"
SHOWN = r"x\n\x1b[31m\x9b2J\u202e\x7f"


# --- running a command ------------------------------------------------------------------------------------


@click.group()
def program() -> None:
    """A program."""


@program.command()
@click.argument("what")
def act(what: str) -> int | str | None:
    outcomes: dict[str, BaseException] = {
        "local": LocalError("the key is gone\nand\tmore", code="key_file"),
        "peer": PeerError(f"said {HOSTILE}", code="odd\x1b"),
        "away": Unavailable("no store"),
        "unreachable": Unreachable("nobody listens"),
        "interrupt": KeyboardInterrupt(),
        "abort": click.Abort(),
        "usage": click.UsageError("not that"),
        "exit": click.exceptions.Exit(7),
        "defect": RuntimeError("a defect"),
        "full": OSError(errno.ENOSPC, "No space left on device", "/d/x"),
    }
    if what in outcomes:
        raise outcomes[what]
    click.echo(f"did {what}")
    results: dict[str, int | str] = {"four": 4, "text": "a text"}
    return results.get(what)


CODES: dict[str, tuple[list[str], int, str]] = {
    "done": (["act", "this"], 0, ""),
    "done with an outcome": (["act", "four"], 4, ""),
    "done with something else": (["act", "text"], 0, ""),
    "refused here": (["act", "local"], 1, "error: key_file: the key is gone and more\n"),
    "refused there": (["act", "peer"], 1, "error: odd\\x1b: said x \\x1b[31m\\x9b2J\\u202e\\x7f\n"),
    "away": (["act", "away"], 1, "error: unavailable: no store\n"),
    "unreachable": (["act", "unreachable"], 3, "error: unreachable: nobody listens\n"),
    "usage": (["act", "usage"], 2, "error: usage: not that\n"),
    "exit": (["act", "exit"], 7, ""),
    "interrupt": (["act", "interrupt"], 130, "\n"),
    "abort": (["act", "abort"], 130, ""),
    "no such command": (["fly"], 2, "error: usage: No such command 'fly'.\n"),
    "no such option": (["act", "--up"], 2, "error: usage: No such option '--up'. Did you mean '--help'?\n"),
    "an argument too few": (["act"], 2, "error: usage: Missing argument 'WHAT'.\n"),
    "an argument too many": (["act", "a", "b"], 2, "error: usage: Got unexpected extra argument (b)\n"),
    "no text": (["act", "caf\udce9"], 2, "error: usage: argument 2 is no UTF-8 text; check the terminal's encoding\n"),
    "the system": (["act", "full"], 1, "error: system: /d/x: No space left on device\n"),
    "help": (["--help"], 0, ""),
}


@pytest.mark.attack(56)
@pytest.mark.parametrize(("arguments", "code", "stderr"), CODES.values(), ids=CODES)
def test_each_outcome_has_its_exit_code_and_one_line(
    arguments: list[str], code: int, stderr: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(program, "program", arguments) == code
    assert capsys.readouterr().err == stderr


def test_without_a_command_help_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(program, "program", []) == 2
    assert "Usage: program" in capsys.readouterr().err


def test_a_defect_is_not_hidden() -> None:
    with pytest.raises(RuntimeError):
        run(program, "program", ["act", "defect"])


PRELUDE = "import sys, click\nfrom common.command_line import run\n@click.command()\n"
FLOOD = PRELUDE + "def flood():\n    while True: click.echo('x' * 1000)\nsys.exit(run(flood, 'flood', []))\n"
LAST_WORD = PRELUDE + "def word():\n    sys.stdin.read(); print('word')\nsys.exit(run(word, 'word', []))\n"
WAIT = PRELUDE + "def wait():\n    print('waiting', flush=True); sys.stdin.read()\nsys.exit(run(wait, 'wait', []))\n"


def start(program: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
    )


@pytest.mark.parametrize("program", [FLOOD, LAST_WORD], ids=["in the middle", "at the last flush"])
def test_a_reader_that_goes_away_is_no_traceback(program: str) -> None:
    with start(program) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stderr is not None
        if program == FLOOD:
            assert process.stdout.read(10) == b"x" * 10
        process.stdout.close()
        process.stdin.close()
        assert process.wait(20) == 1
        assert process.stderr.read() == b""


CLOSED: dict[str, tuple[str, int, str]] = {
    "a full disk": (">/dev/full", 1, "error: system: No space left on device\n"),
    "no stdout": (">&-", 0, ""),
    "no stderr": ("2>&-", 0, ""),
    "no stream at all": ("<&- >&- 2>&-", 0, ""),
}


@pytest.mark.parametrize(("streams", "code", "stderr"), CLOSED.values(), ids=CLOSED)
def test_output_that_goes_nowhere_is_no_traceback(streams: str, code: int, stderr: str) -> None:
    program = PRELUDE + (
        "def word():\n"
        "    opened = open('/etc/hostname'); assert opened.fileno() > 2\n"
        "    opened.close(); print('word'); sys.stdout.isatty()\n"
        "sys.exit(run(word, 'word', []))\n"
    )
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" -c "$1" {streams}', sys.executable, program],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (code, stderr)


def test_ctrl_c_is_no_traceback() -> None:
    with start(WAIT) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"waiting\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert process.stderr.read().strip() == b""


# --- what is shown ----------------------------------------------------------------------------------------


def test_facts_for_people_are_what_is_set(capsys: pytest.CaptureFixture[str]) -> None:
    Output(json=False).facts({"id": "build-1", "url": None, "agents": 0})
    assert capsys.readouterr().out == "id      build-1\nagents  0\n"


def test_no_facts_are_no_lines(capsys: pytest.CaptureFixture[str]) -> None:
    Output(json=False).facts({"url": None})
    print_facts({})
    assert capsys.readouterr().out == ""


ROWS: list[dict[str, Any]] = [{"id": "build-1", "state": "active"}, {"id": "b", "state": None}]
COLUMNS: dict[str, Callable[[Any], object]] = {"ID": lambda row: row["id"], "STATE": lambda row: row["state"]}


def test_a_table_has_a_line_per_row(capsys: pytest.CaptureFixture[str]) -> None:
    Output(json=False).table(ROWS, COLUMNS)
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["ID", "STATE"],
        ["build-1", "active"],
        ["b"],
    ]


def test_the_name_of_a_row_stays_whole_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    name = "0" * 63
    print_table(["ID", "WHY"], [[name, "y" * 150]])
    assert f"{name}  {'y' * 150}" in capsys.readouterr().out


def test_json_is_one_document_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    out = Output(json=True)
    out.facts({"id": "größe", "url": None})
    out.table(ROWS, COLUMNS)
    first, second = capsys.readouterr().out.splitlines()
    assert json.loads(first) == {"id": "größe", "url": None}
    assert json.loads(second) == ROWS


@pytest.mark.attack(56)
@pytest.mark.parametrize("as_json", [False, True], ids=["people", "JSON"])
def test_nothing_reaches_the_terminal_as_a_control_sequence(as_json: bool, capsys: pytest.CaptureFixture[str]) -> None:
    out = Output(json=as_json)
    out.facts({"name": HOSTILE, HOSTILE: 1, "nested": {"k": [HOSTILE]}})
    out.table([{"id": HOSTILE, "state": HOSTILE}], COLUMNS)
    shown = capsys.readouterr().out
    assert all(line.isprintable() for line in shown.split("\n"))
    if as_json:
        assert json.loads(shown.splitlines()[0])["name"] == HOSTILE
    else:
        assert SHOWN in shown


@pytest.mark.parametrize(
    ("value", "text"), [(None, ""), (0, "0"), (True, "yes"), ("a\tb", r"a\tb"), ({"a": ["\x1b"]}, r'{"a": ["\u001b"]}')]
)
def test_a_value_is_one_line(value: object, text: str) -> None:
    assert safe(value) == text


def _on_a_terminal(program: str, columns: int) -> str:
    """Run a program whose stdout is a terminal of that width and return what it wrote."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "NO_COLOR"}}
    try:
        subprocess.run(
            [sys.executable, "-c", program],
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            env={**environment, "TERM": "xterm"},
            timeout=20,
            check=True,
        )
    finally:
        os.close(theirs)
    written = b""
    try:
        while chunk := os.read(ours, 65536):
            written += chunk
    except OSError:
        pass  # how Linux says that nobody has the other end
    finally:
        os.close(ours)
    return written.decode()


def test_on_a_terminal_states_have_colours_and_lines_fit() -> None:
    written = _on_a_terminal(
        "from common.command_line import print_table\nprint_table(['ID', 'STATE'], [['b', 'failed'], ['c', 'x' * 90]])",
        columns=40,
    )
    assert "\x1b[31mfailed" in written
    assert max(map(len, written.replace("\r", "").split("\n")[2:])) <= 40
    assert written.count("x") == 90


# --- durations and times ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("15m", 900), ("24h", 86_400), ("7d", 604_800), ("1", 1)]
)
def test_a_duration_in_seconds(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "s", "0", "0h", "-1", "+1", "1.5h", "1 h", "1w", "1H", "24h ", "\u0665", "9" * 7, "1\n"]
)
def test_anything_else_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="24h"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("passed_s", "text"),
    [
        (0, "now"),
        (0.9, "now"),
        (-0.9, "now"),
        (1, "1 s ago"),
        (59.9, "59 s ago"),
        (60, "1 min ago"),
        (3599, "59 min ago"),
        (3600, "1 h ago"),
        (86_399, "23 h ago"),
        (86_400, "1 d ago"),
        (400 * 86_400, "400 d ago"),
        (-5, "in 5 s"),
        (-7200, "in 2 h"),
    ],
)
def test_when_something_was(passed_s: float, text: str) -> None:
    assert relative_time(1_000_000_000 - passed_s, 1_000_000_000) == text


def test_what_cannot_be_written_at_the_end_is_dropped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @click.command()
    def fail() -> None:
        sys.stdout.write("kept in the buffer")
        raise OSError(errno.EIO, "Input/output error")

    with open("/dev/full", "w") as full:  # noqa: PTH123  # a device, and it stands in for stdout
        monkeypatch.setattr(sys, "stdout", full)
        assert run(fail, "hub", []) == 1
    assert capsys.readouterr().err == "error: system: Input/output error\n"
