from __future__ import annotations

import os
from pathlib import Path

import pytest

from common.errors import Invalid, LocalError
from spoke.skills import SkillStore


@pytest.fixture
def store(tmp_path: Path) -> SkillStore:
    skill = tmp_path / "skills" / "python"
    (skill / "scripts").mkdir(parents=True)
    (skill / "SKILL.md").write_text("# Python")
    (skill / "scripts" / "run.sh").write_text("#!/bin/sh")
    (skill / "scripts" / "run.sh").chmod(0o755)
    return SkillStore(tmp_path)


def test_a_skill_is_copied_whole(store: SkillStore, tmp_path: Path) -> None:
    store.install(["python"], tmp_path / "home" / ".claude" / "skills")
    copied = tmp_path / "home" / ".claude" / "skills" / "python"
    assert (copied / "SKILL.md").read_text() == "# Python"
    assert os.access(copied / "scripts" / "run.sh", os.X_OK)
    assert store.names() == ["python"]


def test_without_a_store_there_is_none(tmp_path: Path) -> None:
    assert SkillStore(tmp_path).names() == []


def test_one_that_is_not_there_is_refused_and_nothing_copied(store: SkillStore, tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="has no skill rust") as caught:
        store.install(["python", "rust"], tmp_path / "home")
    assert caught.value.code == "invalid"
    assert not (tmp_path / "home").exists()


@pytest.mark.attack(52)
@pytest.mark.parametrize("kind", ["link", "link to a directory", "fifo"])
def test_what_is_no_file_is_not_followed(store: SkillStore, tmp_path: Path, kind: str) -> None:
    odd = tmp_path / "skills" / "python" / "odd"
    if kind == "fifo":
        os.mkfifo(odd)
    else:
        odd.symlink_to("/etc" if kind == "link to a directory" else "/etc/passwd")
    with pytest.raises(LocalError, match="odd is no regular file") as caught:
        store.install(["python"], tmp_path / "home")
    assert caught.value.code == "config"


def test_one_that_is_too_large_is_refused(store: SkillStore, tmp_path: Path) -> None:
    with (tmp_path / "skills" / "python" / "large").open("wb") as file:
        file.truncate(17 * 1024 * 1024)
    with pytest.raises(LocalError, match="too large for a skill"):
        store.install(["python"], tmp_path / "home")
