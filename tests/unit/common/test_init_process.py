"""Which of those who have ended decides; that real orphans are reaped is in tests/integration/common."""

from __future__ import annotations

import os
import signal

import pytest

from common import init_process


def test_only_the_nodes_end_is_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = iter([(7, 0), (0, 0), (8, 0), (5, 3 << 8), (0, 0)])
    monkeypatch.setattr(signal, "sigwait", lambda _signals: signal.SIGCHLD)
    monkeypatch.setattr(os, "waitpid", lambda *_: next(ended))
    assert init_process._look_after(5) == 3
