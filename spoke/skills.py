"""The spoke's skill store: `DIR/skills/NAME/`, copied into the home of each agent that was given the skill.

Refuses a skill that is not there, `invalid`, before a spawn is accepted where the agent's program reads skills. Copies
regular files only, of a bounded number and size; a symbolic link could show an agent what is not its own.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from common.errors import Invalid, LocalError

_MAX_FILES: Final = 1000
_MAX_BYTES: Final = 16 * 1024 * 1024


class SkillStore:
    """The skills of one spoke's directory."""

    def __init__(self, directory: Path) -> None:
        self._root = directory / "skills"

    def names(self) -> list[str]:
        """Return the names of the skills that are there."""
        return sorted(path.name for path in self._root.glob("*") if path.is_dir()) if self._root.is_dir() else []

    def check(self, names: Sequence[str]) -> None:
        """Raise `Invalid` for the first that is not there."""
        for name in names:
            if not (self._root / name).is_dir():
                raise Invalid(f"context.skills: this spoke has no skill {name}; ask its operator for it")

    def install(self, names: Sequence[str], home: Path, below: str) -> None:
        """Copy skills to `below` a home, in the place of what an earlier attempt has there; no agent runs meanwhile.

        Raises `Invalid`, and LocalError `config` for one that cannot be copied.
        """
        self.check(names)
        for name in names:
            _copy(self._root / name, _make_way(home, *Path(below).parts, name))


def _make_way(home: Path, *names: str) -> Path:
    """Return the place of these names with nothing in it; a link that the agent left must not lead out of its home."""
    place = home
    for name in names[:-1]:
        place /= name
        if place.is_symlink() or not place.is_dir():
            place.unlink(missing_ok=True)
        place.mkdir(mode=0o700, exist_ok=True)
    place /= names[-1]
    if place.is_symlink() or not place.is_dir():
        place.unlink(missing_ok=True)
    else:
        shutil.rmtree(place)
    return place


def _copy(source: Path, target: Path) -> None:
    files, size = 0, 0
    for directory, subdirectories, names in os.walk(source, onerror=_cannot_read):
        place = target / Path(directory).relative_to(source)
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in (*subdirectories, *names):
            status = (Path(directory) / name).lstat()
            if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
                raise LocalError(f"{directory}/{name} is no regular file; a skill holds nothing else", code="config")
            if stat.S_ISREG(status.st_mode):
                files, size = files + 1, size + status.st_size
                if files > _MAX_FILES or size > _MAX_BYTES:
                    raise LocalError(f"{source} is too large for a skill: 1000 files, 16 MiB", code="config")
                shutil.copy(Path(directory) / name, place / name, follow_symlinks=False)


def _cannot_read(error: OSError) -> None:
    raise LocalError(f"{error.filename} cannot be read: {error.strerror}", code="config") from error
