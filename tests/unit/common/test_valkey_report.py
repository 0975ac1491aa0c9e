"""What is said of the Valkey of a node that does not run."""

from __future__ import annotations

from pathlib import Path

from common.configuration import ValkeySection
from common.valkey_report import describe, report_valkey
from spoke.rights import rights_of
from spoke.settings import SpokeDirectory


async def test_an_embedded_one_is_not_there_without_its_node(tmp_path: Path) -> None:
    report = await report_valkey(SpokeDirectory(tmp_path), ValkeySection(), rights_of("build-1"), "spoke serve")
    assert "started by spoke serve; the node does not run now" in report.detail
    assert (report.shortfalls, report.exposed) == ((), False)


def test_the_embedded_one_of_a_node_that_runs_is_named() -> None:
    assert "; embedded; " in describe("embedded", ()).detail
