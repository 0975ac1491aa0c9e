"""A real `spoke worker` process beside a `SpokeNode`, for a test."""

from __future__ import annotations

from tests.process_beside import ProcessBeside
from tests.spoke_node import SpokeNode


class WorkerProcess(ProcessBeside):
    """`async with WorkerProcess(node, "a")`: it works inside of the block."""

    def __init__(self, node: SpokeNode, name: str) -> None:
        super().__init__(node, "worker", name, "worker", name)
