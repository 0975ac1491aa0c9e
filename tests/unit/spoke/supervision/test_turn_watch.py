from __future__ import annotations

import pytest

from spoke.supervision.turn_watch import TurnWatch

END = b'{"duration":1,"type":"result","queued_turn_count":0}\n'


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        pytest.param(END, 1, id="an end"),
        pytest.param(b'{"type": "result"}\n', 1, id="with spaces, without a count"),
        pytest.param(END.replace(b":0}", b":2}"), 0, id="more turns wait"),
        pytest.param(b'{"type":"assistant","text":"\\"type\\":\\"result\\" \\"result\\""}\n', 0, id="spoken of"),
        pytest.param(b'{"type":"assistant","x":{"type":"result"}}\n', 0, id="deeper"),
        pytest.param(b'["result"]\n"result"\n{"result"\n', 0, id="no object"),
        pytest.param(END.rstrip(), 0, id="not whole yet"),
        pytest.param(b"x" * (1024 * 1024) + END + END, 1, id="after a line that is too long"),
        pytest.param(b"[" * 500_000 + b'"result"\n', 0, id="nested"),
    ],
)
@pytest.mark.parametrize("size", [7, 65536])
def test_the_end_of_a_turn(text: bytes, ends: int, size: int) -> None:
    watch = TurnWatch("result")
    assert sum(watch.feed(text[at : at + size]) for at in range(0, len(text), size)) == ends


def test_without_an_end_to_wait_for_nothing_ends() -> None:
    assert not TurnWatch(None).feed(END)
