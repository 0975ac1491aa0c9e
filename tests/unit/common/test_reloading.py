from __future__ import annotations

from pathlib import Path

import pytest

from common.configuration import LogSection, NodeSection, TlsSection
from common.errors import LocalError
from common.node_log import Level
from common.reloading import Reloading, changed, merge
from hub.settings import LIVE, HubSettings, OutboxSection


def settings(limit: int, ca: str, level: Level) -> HubSettings:
    node = NodeSection(id="hub-eu", listen="127.0.0.1:0")
    outbox, tls, log = OutboxSection(limit=limit), TlsSection(ca=Path(ca)), LogSection(level=level)
    return HubSettings.model_construct(node=node, outbox=outbox, tls=tls, log=log)


OLD = settings(1, "old.crt", "info")
NEW = settings(2, "new.crt", "error")


def test_only_what_may_change_does() -> None:
    assert changed(OLD, NEW) == {"outbox.limit", "tls.ca", "log.level"}
    merged = merge(OLD, NEW, LIVE)
    assert (merged.outbox.limit, merged.log.level, merged.tls.ca) == (2, "error", Path("old.crt"))
    assert changed(merged, NEW) == {"tls.ca"}


def test_a_whole_section_may_be_one_setting() -> None:
    assert merge(OLD, NEW, frozenset()) == OLD
    assert merge(OLD, NEW, changed(OLD, NEW)) == NEW


@pytest.mark.parametrize("failing", ["read", "prepare", "log"])
async def test_what_fails_puts_nothing_in_force(failing: str) -> None:
    done: list[str] = []

    def step(name: str) -> None:
        if name == failing:
            raise LocalError("no good", code="config")
        done.append(name)

    def read() -> HubSettings:
        step("read")
        return NEW

    def prepare(_settings: HubSettings) -> object:
        step("prepare")
        return lambda: step("adopt")

    reloading = Reloading(read, prepare, lambda _settings: step("log"), LIVE, OLD)  # type: ignore[arg-type]  # a callable
    await reloading.reload()
    assert "adopt" not in done
    failing = ""
    await reloading.reload()
    assert done[-1] == "adopt"
