"""Whether an agent's workspace is larger than its type may have: looked at before the start and while it runs.

Looking walks the tree, so the pauses grow with what a look takes: a large tree costs no more than a twentieth of one
core. What is written between two looks goes unseen until the next one; `file_mib` and `disk_gib` bound that.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from spoke.disk_usage import disk_usage
from spoke.workspace import WorkspaceFailed

CAUSE: Final = "workspace_mib"
"""With which the cause of a kill begins that this watch asks for."""
_LEAST_PAUSE_S: Final = 5.0
_PAUSE_PER_LOOK: Final = 20
_MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class WorkspaceWatch:
    """Watches one workspace at `path`; without a bound (`most_mib` None) it never looks."""

    path: Path
    most_mib: int | None

    async def check(self) -> None:
        """Raise `WorkspaceFailed`, not to be tried again, for a workspace that is too large already."""
        if self.most_mib is not None and (excess := await self._excess()):
            raise WorkspaceFailed(f"{excess}; the operator of the spoke may raise it", retryable=False)

    async def until_too_large(self) -> str:
        """Return what was measured once the workspace is too large: the cause of the kill that follows."""
        if self.most_mib is None:
            await asyncio.Event().wait()
        while True:
            before = time.monotonic()
            if excess := await self._excess():
                return excess
            await asyncio.sleep(max(_LEAST_PAUSE_S, _PAUSE_PER_LOOK * (time.monotonic() - before)))

    async def _excess(self) -> str | None:
        mib = -(-await disk_usage(self.path) // _MIB)
        return None if mib <= (self.most_mib or mib) else f"{CAUSE}: the workspace takes {mib} MiB of {self.most_mib}"
