"""How a process of the spoke stops: when it is told to, and in any case within a time."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from typing import Final

import structlog

_STOP_S: Final = 10.0
_log: Final = structlog.get_logger("spoke")


def stop_signalled() -> asyncio.Event:
    """Return what SIGTERM and SIGINT set from now on."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


def stop_in_time() -> None:
    """End the process when it has not ended in ten seconds, whatever holds it up: it may be cut off (fault 33)."""

    def cut_off() -> None:
        _log.error("node.cut_off", after_s=_STOP_S)
        os._exit(1)

    timer = threading.Timer(_STOP_S, cut_off)
    timer.daemon = True
    timer.start()
