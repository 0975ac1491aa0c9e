from __future__ import annotations

import io
import json
import logging
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from common.keyring import SigningKey
from common.logs import configure, configure_quietly, escape, many, together
from tests.envelopes import HUB_KEY

ESC = "\x1b"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _configured_back() -> Iterator[None]:
    yield
    structlog.contextvars.clear_contextvars()
    structlog.reset_defaults()


ESCAPED: dict[str, tuple[str, str]] = {
    "plain": ("build-1", "build-1"),
    "nothing": ("", ""),
    "letters of the world": ("größe 大きさ", "größe 大きさ"),
    "backslash": (r"C:\new", r"C:\new"),
    "newline": ("a\nERROR b", r"a\nERROR b"),
    "carriage return": ("a\rb", r"a\rb"),
    "tab": ("a\tb", r"a\tb"),
    "NUL": ("a\0b", r"a\x00b"),
    "bell": ("\x07", r"\x07"),
    "escape sequence": (f"{ESC}[2J", r"\x1b[2J"),
    "window title": (f"{ESC}]0;root@host\x07", r"\x1b]0;root@host\x07"),
    "C1 control": ("\x9b31m", r"\x9b31m"),
    "delete": ("\x7f", r"\x7f"),
    "right-to-left override": ("exe.\u202egpj", r"exe.\u202egpj"),
    "isolate": ("\u2066a\u2069", r"\u2066a\u2069"),
    "Arabic letter mark": ("\u061c", r"\u061c"),
    "zero width": ("a\u200bb", r"a\u200bb"),
    "byte order mark": ("\ufeff", r"\ufeff"),
    "line separator": ("a\u2028b", r"a\u2028b"),
    "next line": ("a\x85b", r"a\x85b"),
    "lone surrogate": ("\udcff", r"\udcff"),
    "tag characters": ("\U000e0041", r"\U000e0041"),
}


@pytest.mark.attack(56)
@pytest.mark.parametrize(("text", "shown"), ESCAPED.values(), ids=ESCAPED)
def test_what_would_not_be_shown_as_it_is_is_escaped(text: str, shown: str) -> None:
    assert escape(text) == shown


@pytest.mark.attack(56)
@given(st.text())
def test_whatever_is_escaped_is_one_printable_line(text: str) -> None:
    assert escape(text).isprintable()
    assert escape(escape(text)) == escape(text)


HOSTILE = f"x\n{ESC}[31m\u202e"
SHOWN = r"x\n\x1b[31m\u202e"


@pytest.mark.attack(56)
def test_json_lines_are_one_line_each_and_escaped() -> None:
    stream = io.StringIO()
    configure(stream)
    structlog.get_logger("x").info("peer.added", peer=HOSTILE, labels={"k": HOSTILE}, path=Path("/tmp/\x1b"), n=5)
    (line,) = stream.getvalue().splitlines()
    assert line.isprintable()
    entry = json.loads(line)
    assert (entry["event"], entry["level"], entry["peer"], entry["n"]) == ("peer.added", "info", SHOWN, 5)
    assert entry["timestamp"].endswith("Z")


@pytest.mark.attack(56)
def test_the_console_gets_no_escape_sequence_but_our_colours() -> None:
    stream = Terminal()
    configure(stream)
    structlog.get_logger("x").warning(HOSTILE, peer=HOSTILE, labels={"k": HOSTILE}, listed=[HOSTILE])
    assert stream.getvalue().count("\n") == 1
    assert SHOWN in stream.getvalue()
    assert f"{ESC}[31mx" not in stream.getvalue()
    assert "\u202e" not in stream.getvalue()
    assert f"{ESC}[33m" in stream.getvalue(), "a warning stands out"


def fail_with_secret(secret: str) -> None:
    raise ValueError(f"peer said {HOSTILE}")


@pytest.mark.attack(56)
@pytest.mark.attack(63)
@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()], ids=["JSON", "console"])
def test_a_traceback_shows_lines_of_code_but_no_values(stream: io.StringIO) -> None:
    configure(stream)
    try:
        fail_with_secret("".join(reversed("terc3s")))
    except ValueError:
        structlog.get_logger("x").exception("request.crashed")
    shown = stream.getvalue()
    assert "fail_with_secret" in shown
    assert "s3cret" not in shown
    assert "\nfail" not in shown
    assert not any(line.startswith((f"{ESC}[31m", r"\x1b")) for line in shown.splitlines())
    assert f"{ESC}[31m\u202e" not in shown
    assert "\u202e" not in shown


def test_what_is_bound_is_on_every_line() -> None:
    stream = io.StringIO()
    configure(stream)
    with structlog.contextvars.bound_contextvars(command_id="c-1"):
        structlog.get_logger("x").info("command.accepted")
    structlog.get_logger("x").info("later")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert first["command_id"] == "c-1"
    assert "command_id" not in second


def test_what_is_below_the_level_is_not_written() -> None:
    stream = io.StringIO()
    configure(stream, logging.WARNING)
    structlog.get_logger("x").info("quiet")
    assert stream.getvalue() == ""


def test_lines_go_to_stderr_unless_told_otherwise(capsys: pytest.CaptureFixture[str]) -> None:
    configure()
    structlog.get_logger("x").info("hello")
    shown = capsys.readouterr()
    assert json.loads(shown.err)["event"] == "hello"
    assert shown.out == ""
    assert sys.stderr is not None


@pytest.mark.attack(63)
@pytest.mark.parametrize("renderer", [repr, str, "{}".format], ids=["repr", "str", "format"])
def test_a_signing_key_does_not_show_itself(renderer: Any) -> None:
    assert isinstance(HUB_KEY, SigningKey)
    shown = renderer(HUB_KEY)
    assert bytes([1] * 32).hex() not in shown
    assert "0101" not in shown
    assert "\\x01" not in shown


def test_a_command_says_no_more_than_warnings_and_never_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    structlog.reset_defaults()
    configure_quietly()
    structlog.get_logger("x").info("quiet")
    structlog.get_logger("x").warning("loud")
    told = capsys.readouterr()
    assert told.out == ""
    assert json.loads(told.err)["event"] == "loud"


def test_a_command_leaves_logging_as_somebody_set_it_up() -> None:
    stream = io.StringIO()
    configure(stream)
    configure_quietly()
    structlog.get_logger("x").info("said")
    assert json.loads(stream.getvalue())["event"] == "said"


class _Counted(io.StringIO):
    flushes = 0

    def flush(self) -> None:
        self.flushes += 1


def test_lines_of_one_block_are_one_write() -> None:
    stream = _Counted()
    configure(stream)
    log = structlog.get_logger("x")
    with together():
        log.info("first")
        with together():
            log.warning("second")
        assert stream.getvalue() == ""
    log.info("third")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["first", "second", "third"]
    assert stream.flushes == 2


def test_a_block_without_lines_writes_nothing_and_one_that_fails_what_it_said() -> None:
    stream = _Counted()
    configure(stream)
    with together():
        pass
    assert stream.flushes == 0

    def failing() -> None:
        with together():
            structlog.get_logger("x").info("said before")
            raise KeyError

    with pytest.raises(KeyError):
        failing()
    assert json.loads(stream.getvalue())["event"] == "said before"


def test_lines_together_before_logging_is_set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.logs._lines", None)
    with together():
        pass


def test_what_is_no_json_is_shown_as_it_shows_itself() -> None:
    stream = io.StringIO()
    configure(stream)
    structlog.get_logger("x").info("told", where=complex(1, 2))
    assert json.loads(stream.getvalue())["where"] == "(1+2j)"


NAMES = ("command_id", "outcome", "reason")
ROWS = [("c-1", "accepted", None), ("c-2", "", HOSTILE), (ESC, '"}, {"', "%s größe \\"), ("c-1", "accepted", None)]


def _said(stream: io.StringIO, bound: dict[str, str], rows: Sequence[tuple[str | None, ...]], *, at_once: bool) -> str:
    configure(stream)
    with structlog.contextvars.bound_contextvars(life="l-1"):
        log = structlog.get_logger("x").bind(**bound)
        if at_once:
            many(log.info, "command.settled", NAMES, rows)
        else:
            for row in rows:
                log.info("command.settled", **dict(zip(NAMES, row, strict=True)))
    return re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "NOW", stream.getvalue())


@pytest.mark.attack(56)
@pytest.mark.parametrize("bound", [{}, {"peer": "hub-eu", "way": HOSTILE}], ids=["nothing bound", "bound"])
@pytest.mark.parametrize("stream", [io.StringIO, Terminal], ids=["JSON", "console"])
@pytest.mark.parametrize("count", [1, len(ROWS)])
def test_many_lines_at_once_are_the_same_bytes(count: int, stream: type[io.StringIO], bound: dict[str, str]) -> None:
    at_once, each = (_said(stream(), bound, ROWS[-count:], at_once=way) for way in (True, False))
    assert at_once == each
    assert at_once.count("\n") == count


@pytest.mark.attack(56)
@given(st.lists(st.tuples(*[st.none() | st.text()] * len(NAMES))))
def test_whatever_many_lines_say_is_the_same_bytes(rows: list[tuple[str | None, ...]]) -> None:
    at_once, each = (_said(io.StringIO(), {"peer": "hub-eu"}, rows, at_once=way) for way in (True, False))
    assert at_once == each


def test_many_lines_are_one_write_and_none_are_none() -> None:
    stream = _Counted()
    configure(stream)
    log = structlog.get_logger("x")
    many(log.info, "command.settled", NAMES, [])
    many(log.debug, "command.settled", NAMES, ROWS)
    assert stream.getvalue() == ""
    many(log.info, "command.settled", NAMES, ROWS)
    assert stream.flushes == 1


def test_what_else_is_called_rows_is_a_value() -> None:
    for stream in (io.StringIO(), Terminal()):
        configure(stream)
        structlog.get_logger("x").info("store.swept", rows=7)
        assert "7" in stream.getvalue()
