"""The launcher of what starts from now on: a reload puts another in its place.

Whoever attends to an agent takes the one of the moment and keeps it, so that what was started by one configuration is
also read and concluded by it.
"""

from __future__ import annotations

from common.commands import SpawnFields
from spoke.launching import Launcher


class CurrentLauncher:
    """`launcher()` is the one in force."""

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher

    def __call__(self) -> Launcher:
        """Return the one in force."""
        return self._launcher

    def replace(self, launcher: Launcher) -> None:
        """Start agents by another one from now on."""
        self._launcher = launcher

    def ignored_files(self) -> tuple[str, ...]:
        """Return what is nobody's work in a tree, by the one in force."""
        return self._launcher.ignored_files()

    def check(self, spawn: SpawnFields) -> None:
        """Raise `Invalid` for a spawn that the one in force could not start."""
        self._launcher.check(spawn)
