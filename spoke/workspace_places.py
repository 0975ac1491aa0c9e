"""Where workspaces and mirrors lie, below one directory, and which of them are there.

`agents/PEER/AGENT/` is a workspace once `workspace.json` is in it, `mirrors/PEER/HASH.git` a mirror. Refuses names that
could lead elsewhere (attack row 55). Looks and changes nothing.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from spoke.mirror import WorkspaceFailed

RECORD: Final = "workspace.json"
# A tenant (an instance id and the number of its connection) or a UUID: no separator, no `..`, nothing hidden.
_PART: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?(_[0-9]{1,18})?\Z")


class Places:
    """The places below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def agent(self, peer: str, agent_id: str) -> Path:
        """Return the place of an agent's workspace; raises `WorkspaceFailed` for names that are none."""
        return self.root / "agents" / _part(peer) / _part(agent_id)

    def mirrors_of(self, peer: str) -> Path:
        """Return the place of a peer's mirrors; raises `WorkspaceFailed`."""
        return self.root / "mirrors" / _part(peer)

    def agents(self) -> list[tuple[str, str]]:
        """Return (peer, agent id) of all that has a place here, whole or half-made."""
        names = ((path.parent.name, path.name) for path in self.root.glob("agents/*/*"))
        return [name for name in names if all(map(_PART.match, name))]

    def exists(self, peer: str, agent_id: str) -> bool:
        """Whether anything lies in the place of an agent's workspace."""
        return self.agent(peer, agent_id).exists()

    def is_half_made(self, peer: str, agent_id: str) -> bool:
        """Whether something lies there that `prepare` or a removal did not finish."""
        path = self.agent(peer, agent_id)
        return path.exists() and not (path / RECORD).exists()

    def used_ms(self, peer: str, agent_id: str) -> int:
        """Return when the workspace was last made, collected or read, in milliseconds; 0 for never."""
        try:
            return self.agent(peer, agent_id).stat().st_mtime_ns // 1_000_000
        except FileNotFoundError:
            return 0

    def mirrors(self) -> list[Path]:
        """Return all mirrors."""
        return sorted(self.root.glob("mirrors/*/*.git"))

    def half_deleted_mirrors(self) -> list[Path]:
        """Return what is left of mirrors that were being deleted when the spoke was killed."""
        return list(self.root.glob("mirrors/*/*.gone"))


def _part(name: str) -> str:
    if not _PART.match(name):
        raise WorkspaceFailed("a peer or agent id cannot be part of a path", retryable=False)
    return name
