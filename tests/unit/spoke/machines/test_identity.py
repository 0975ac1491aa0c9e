"""Under which id a machine works: never under none, which would be the node's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import Malformed
from spoke.machines.process import ID_FILE, Identity


def identity(directory: Path) -> tuple[Identity, list[str]]:
    told: list[str] = []
    return Identity(directory, lambda: told.append("changed")), told


@pytest.mark.parametrize("content", ["", "\n", "m1", "@m1_1", "m1_1/x"])
def test_a_file_that_names_no_machine_counts_as_none(tmp_path: Path, content: str) -> None:
    (tmp_path / ID_FILE).write_text(content)
    found, _ = identity(tmp_path)
    assert not found.known.is_set()
    found.welcomed("m1_1")
    assert (found.known.is_set(), found.id, (tmp_path / ID_FILE).read_text()) == (True, "m1_1", "m1_1\n")


def test_the_id_is_kept_and_another_one_ends_this_life(tmp_path: Path) -> None:
    identity(tmp_path)[0].welcomed("m1_1")
    found, told = identity(tmp_path)
    assert (found.known.is_set(), found.id) == (True, "m1_1")
    found.welcomed("m1_1")
    assert told == []
    found.welcomed("m1_2")
    assert (told, found.id) == (["changed"], "m1_1")
    assert identity(tmp_path)[0].id == "m1_2"


def test_a_node_that_names_no_machine_is_not_believed(tmp_path: Path) -> None:
    found, _ = identity(tmp_path)
    with pytest.raises(Malformed):
        found.welcomed("")
    assert not (tmp_path / ID_FILE).exists()
