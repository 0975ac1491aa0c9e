"""Waiting for the audit's disk: a decision that comes as a visit to it ends begins the next one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from common.audit_directory import AuditDirectory
from common.audit_file import Audit
from common.clock import SystemClock
from tests.envelopes import HUB, HUB_KEY


@pytest.mark.timeout(10)
async def test_a_decision_between_a_visits_end_and_the_news_of_it_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    audit = Audit(AuditDirectory(tmp_path), HUB, HUB_KEY, SystemClock())
    try:
        first = asyncio.create_task(audit.record("first"))
        await asyncio.sleep(0)
        # The disk has been visited; the event loop hears of it in its next round, in which the second decision comes.
        audit._thread.submit(int).result()
        second = asyncio.create_task(audit.record("second"))
        await asyncio.gather(first, second)
    finally:
        audit.close()
    content = (tmp_path / "audit" / "audit.jsonl").read_text()
    assert '"first"' in content
    assert '"second"' in content
