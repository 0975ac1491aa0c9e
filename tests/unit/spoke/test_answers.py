"""How much of a log one answer takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from common import strict_json
from common.commands import MAX_LOG_BYTES, Logs
from common.envelope import MAX_ITEMS_BYTES
from spoke.agent_record import AgentRecord
from spoke.answers import Answers, OwnDisk
from spoke.git import Git
from spoke.patches import Patches
from spoke.runs import Runs
from spoke.workspace import Workspaces
from tests.envelopes import id_of

ROOM = MAX_ITEMS_BYTES // 2


async def pieces_of(tmp_path: Path, log: bytes, room: int) -> list[bytes]:
    """Read a whole log as a hub would; returns the answers."""
    runs = Runs(tmp_path / "runs")
    record = AgentRecord({"tenant": "hub-eu_1", "id": id_of(1), "status": "completed", "attempt": "1"})
    run = runs.run(record.ref, 1)
    run.make(b"{}")
    (run.directory / "log").write_bytes(log)
    disk = OwnDisk(runs, Patches(runs, Workspaces(tmp_path / "workspaces", git=Git({}))))
    answers = Answers(lambda _: disk)
    pieces, offset, ended, text = [], 0, False, ""
    while not ended:
        logs = Logs.model_validate(
            {"id": id_of(2), "command": "logs", "agentId": id_of(1), "offset": offset, "limit": MAX_LOG_BYTES}
        )
        answer = await answers.answer(logs, record, room)
        assert answer is not None
        piece = answer["log"]
        assert piece["nextOffset"] > offset
        offset, ended, text = piece["nextOffset"], piece["eof"], text + piece["data"]
        pieces.append(strict_json.encode(piece["data"]))
    assert text == log.decode("utf-8", "replace")
    return pieces


@pytest.mark.parametrize(
    ("log", "room", "answers"),
    [
        pytest.param(b"line of text\n" * 40_000, ROOM, 2, id="text is read in pieces as large as asked for"),
        pytest.param("Grüße \N{ROCKET}\n".encode() * 41_000, ROOM, 3, id="characters stay whole"),
        pytest.param(b"\x01" * 300_000, ROOM, 5, id="six bytes for one"),
        pytest.param(b"\xff" * 300_000, ROOM, 4, id="no UTF-8"),
        pytest.param(b"line of text\n" * 10_000, 60_000, 9, id="little room"),
    ],
)
async def test_a_piece_takes_no_more_room_than_there_is(tmp_path: Path, log: bytes, room: int, answers: int) -> None:
    pieces = await pieces_of(tmp_path, log, room)
    assert max(map(len, pieces)) <= room
    assert len(pieces) == answers
