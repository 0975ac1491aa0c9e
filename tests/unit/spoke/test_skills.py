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
    (tmp_path / "home").mkdir()
    store.install(["python"], tmp_path / "home", ".claude/skills")
    copied = tmp_path / "home" / ".claude" / "skills" / "python"
    assert (copied / "SKILL.md").read_text() == "# Python"
    assert os.access(copied / "scripts" / "run.sh", os.X_OK)
    assert store.names() == ["python"]


def test_without_a_store_there_is_none(tmp_path: Path) -> None:
    assert SkillStore(tmp_path).names() == []


def test_one_that_is_not_there_is_refused_and_nothing_copied(store: SkillStore, tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="has no skill rust") as caught:
        store.install(["python", "rust"], tmp_path / "home", ".claude/skills")
    assert caught.value.code == "invalid"
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("kind", ["link", "link to a directory", "fifo"])
def test_what_is_no_file_is_not_followed(store: SkillStore, tmp_path: Path, kind: str) -> None:
    odd = tmp_path / "skills" / "python" / "odd"
    if kind == "fifo":
        os.mkfifo(odd)
    else:
        odd.symlink_to("/etc" if kind == "link to a directory" else "/etc/passwd")
    with pytest.raises(LocalError, match="odd is no regular file") as caught:
        store.install(["python"], tmp_path, "home")
    assert caught.value.code == "config"


def test_one_that_is_too_large_is_refused(store: SkillStore, tmp_path: Path) -> None:
    with (tmp_path / "skills" / "python" / "large").open("wb") as file:
        file.truncate(17 * 1024 * 1024)
    with pytest.raises(LocalError, match="too large for a skill"):
        store.install(["python"], tmp_path, "home")


@pytest.mark.parametrize("link", ["", "/skills", "/skills/python", "/skills/python/SKILL.md"])
def test_a_link_that_an_earlier_attempt_left_leads_nobody_out_of_its_home(
    store: SkillStore, tmp_path: Path, link: str
) -> None:
    """A resumed agent goes on in the home that it had; its skills are copied by the spoke, outside of any sandbox."""
    home, outside = tmp_path / "home", tmp_path / "outside"
    left = home / f".claude{link}"
    left.parent.mkdir(parents=True)
    (outside / "skills" / "python").mkdir(parents=True)
    theirs = outside / "SKILL.md"
    theirs.write_text("the operator's")
    left.symlink_to(theirs if link.endswith(".md") else outside)
    store.install(["python"], home, ".claude/skills")
    assert theirs.read_text() == "the operator's"
    assert [path.name for path in outside.rglob("*") if path.is_file()] == ["SKILL.md"]
    copied = home / ".claude" / "skills" / "python" / "SKILL.md"
    assert copied.resolve() == copied
    assert copied.read_text() == "# Python"


def test_a_file_in_the_way_and_a_skill_that_cannot_be_written_are_replaced(store: SkillStore, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "skills" / "python" / "SKILL.md").chmod(0o400)
    store.install(["python"], home, ".claude/skills")
    (home / ".claude" / "skills" / "python" / "old").touch()
    store.install(["python"], home, ".claude/skills")
    assert not (home / ".claude" / "skills" / "python" / "old").exists()
    (home / ".config").touch()
    store.install(["python"], home, ".config/skills")
    assert (home / ".config" / "skills" / "python" / "SKILL.md").exists()
