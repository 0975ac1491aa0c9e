"""A log for people: what is held, what is shown at once, and that nothing of a log is lost or kept in memory."""

from __future__ import annotations

import tracemalloc

import pytest

from common.agent_output import Rendering
from common.agent_output.lines import LONGEST_LINE

BEGUN = b'{"type":"system","subtype":"init","session_id":"s1","model":"m"}\n'
SAID = b'{"type":"assistant","message":{"content":[{"type":"text","text":"hello"}]}}'

LOGS: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", ""),
    "lines": (b"a\n\nb\n", "a\n\nb\n"),
    "no end": (b"a\nb", "a\nb"),
    "ends of Windows": (b"a\r\nb\r\n", "a\nb\n"),
    "a return within a line": (b"a\rb\r\r\nc\r", "a\rb\r\nc"),
    "characters": ("\u20ac\U0001f600\n".encode(), "\u20ac\U0001f600\n"),
    "invalid UTF-8": (b"a\xffb\xe2\x82\n\xe2\x82", "a\ufffdb\ufffd\n\ufffd"),
    "a return, then half a character": (b"a\r\xe2", "a\r\ufffd"),
    "blanks": (b"   \n" + b" " * 100 + b"{}\n", "   \n" + " " * 100 + "{}\n"),
    "a program's events": (BEGUN + b"between\n" + SAID + b"\n", "[session s1, m]\nbetween\nhello\n"),
    "an event without an end": (BEGUN + SAID, "[session s1, m]\nhello\n"),
    "objects that are no events": (b'{"a": 1}\n{\n', '{"a": 1}\n{\n'),
}


@pytest.mark.parametrize("size", [1, 2, 7, 100_000])
@pytest.mark.parametrize(("log", "text"), LOGS.values(), ids=list(LOGS))
def test_a_log_reads_the_same_in_any_chunks(log: bytes, text: str, size: int) -> None:
    rendering = Rendering()
    shown = [rendering.feed(log[at : at + size]) for at in range(0, len(log), size)]
    assert "".join(shown) + rendering.flush() == text
    assert rendering.flush() == ""


def test_a_line_is_seen_while_it_is_written() -> None:
    rendering = Rendering()
    assert rendering.feed(b"3 of ") == "3 of "
    assert rendering.feed(b"10 done") == "10 done"
    assert rendering.feed(b"\n{") == "\n"
    assert rendering.feed(b"}\n") == "{}\n"


@pytest.mark.parametrize("begin", [b"x", b"{"])
def test_a_line_of_any_length_is_shown_whole_and_not_kept(begin: bytes) -> None:
    rendering, chunk, shown = Rendering(), b"x" * 65_536, 0
    tracemalloc.start()
    try:
        shown += len(rendering.feed(begin))
        for _ in range(256):
            shown += len(rendering.feed(chunk))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert shown == 1 + 256 * 65_536
    assert peak < 6 * LONGEST_LINE
    assert rendering.feed(b"\n" + BEGUN) == "\n[session s1, m]\n"
