"""Where an attempt may start, when a machine is given up, and what a machine may keep."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from common.errors import Unavailable
from spoke.agent_record import AgentRecord, AgentRef
from spoke.machines.held_by import Held
from spoke.machines.losing import Silence
from spoke.machines.places import FILE_NAME, Places
from spoke.machines.strays import is_ours
from tests.envelopes import id_of

REF, OTHER = AgentRef("hub-eu_1", id_of(1)), AgentRef("hub-us_2", id_of(1))


def test_an_attempt_has_one_place_and_an_agent_one_machine(tmp_path: Path) -> None:
    places = Places(tmp_path)
    assert places.machine_of(REF, 1) is None
    assert not (tmp_path / FILE_NAME).exists(), "asking makes nothing"
    assert places.note(REF, 1, "m1_1", 10)
    assert places.note(REF, 1, "m1_1", 11), "a repeated question has the same answer"
    assert not places.note(REF, 1, "m2_2", 12)
    assert places.note(REF, 3, "m1_1", 13)
    assert not places.note(REF, 2, "m1_1", 14), "an attempt before one that was started"
    assert not places.note(REF, 4, "m2_2", 15), "its work lies on the first"
    assert places.note(OTHER, 1, "m2_2", 16)
    assert Places(tmp_path).attempts(REF) == {1: "m1_1", 3: "m1_1"}
    assert (tmp_path / FILE_NAME).stat().st_mode & 0o777 == 0o600


def test_starts_are_forgotten_when_their_time_is_over(tmp_path: Path) -> None:
    places = Places(tmp_path)
    places.forget(100)
    assert places.note(REF, 1, "m1_1", 10)
    assert places.note(OTHER, 1, "m1_1", 20)
    places.forget(20)
    assert places.attempts(REF) == {}
    assert places.attempts(OTHER) == {1: "m1_1"}


def test_a_file_that_cannot_be_used_says_so_and_nothing_starts(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text("no database, and long enough to be taken for one" * 50)
    with pytest.raises(Unavailable, match="cannot be used"):
        Places(tmp_path).attempts(REF)
    with pytest.raises(Unavailable, match="cannot be used"):
        Places(tmp_path).note(REF, 1, "m1_1", 1)


def test_a_note_that_waits_for_another_s_is_made_after_it(tmp_path: Path) -> None:
    places = Places(tmp_path)
    assert places.note(REF, 1, "m1_1", 1)
    with sqlite3.connect(tmp_path / FILE_NAME) as other:
        assert other.execute("SELECT machine FROM starts").fetchall() == [("m1_1",)]
    other.close()


def test_a_machine_is_silent_while_it_has_no_channel_and_renews_nothing() -> None:
    silence, nobody = Silence(), frozenset[str]()
    assert silence.look({"m1": Held(1, 100), "m2": Held(1, 100)}, nobody, 1000.0) == {"m1": 0.0, "m2": 0.0}
    assert silence.look({"m1": Held(1, 105), "m2": Held(1, 100)}, nobody, 1005.0) == {"m1": 0.0, "m2": 5.0}
    assert silence.look({"m1": Held(1, 105), "m2": Held(1, 100)}, frozenset({"m2"}), 1007.0) == {"m1": 2.0, "m2": 0.0}
    assert silence.look({"m1": Held(0, 0)}, nobody, 1010.0) == {"m1": 5.0}, "an end of its is no word from it"
    assert silence.look({"m1": Held(0, 0), "m2": Held(1, 100)}, nobody, 1011.0) == {"m1": 6.0, "m2": 0.0}
    silence.forget()
    assert silence.look({"m1": Held(0, 0)}, nobody, 2000.0) == {"m1": 0.0}


@pytest.mark.parametrize(
    ("changes", "ours"),
    [
        ({}, True),
        ({"status": "running"}, True),
        ({"worker": "@m2_2/there:life"}, False),
        ({"worker": "node:life"}, False),
        ({"attempt": "2"}, False),
        ({"status": "failed"}, False),
    ],
)
def test_a_run_is_a_machine_s_while_its_record_says_so(changes: dict[str, str], ours: bool) -> None:
    fields = {"id": id_of(1), "tenant": "t_1", "status": "spawning", "attempt": "1", "worker": "@m1_1/there:life"}
    assert is_ours(AgentRecord({**fields, **changes}), 1, "m1_1") is ours
