"""What both nodes answer when they are asked how they are."""

from __future__ import annotations

from typing import Literal

from common.wire import TolerantModel


class HealthView(TolerantModel):
    """The process answers."""

    status: Literal["ok"]


class ReadyView(TolerantModel):
    """The node takes work."""

    status: Literal["ready"]


class NotReadyView(TolerantModel):
    """The node takes no work now, and why."""

    status: Literal["unavailable"]
    code: str
    detail: str
