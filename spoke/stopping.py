"""A process of the spoke that was told to stop does so within a time."""

from __future__ import annotations

import os
import threading
from typing import Final

import structlog

_STOP_S: Final = 10.0
_log: Final = structlog.get_logger("spoke")


def stop_in_time() -> None:
    """End the process when it has not ended in ten seconds, whatever holds it up: it may be cut off (fault 33)."""

    def cut_off() -> None:
        _log.error("node.cut_off", after_s=_STOP_S)
        os._exit(1)

    timer = threading.Timer(_STOP_S, cut_off)
    timer.daemon = True
    timer.start()
