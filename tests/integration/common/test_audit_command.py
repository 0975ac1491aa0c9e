"""`audit verify` and `audit show` as both command lines have them."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from common.audit_command import Audited, audit_group
from common.audit_directory import AuditDirectory
from common.audit_file import Audit, acting
from common.clock import SystemClock
from tests.envelopes import HUB, HUB_KEY


@pytest.fixture
def directory(tmp_path: Path) -> AuditDirectory:
    return AuditDirectory(tmp_path)


@pytest.fixture
def written(directory: AuditDirectory) -> AuditDirectory:
    audit = Audit(directory, HUB, HUB_KEY, SystemClock())
    audit.seal("start")
    with acting("token:ops"):
        audit.intend("command.decided", peer="build-1", decisions=[{"ids": ["a"]}])
    audit.intend("peer.changed", peer="\x1b[2J")
    audit.close()
    return directory


def run(directory: AuditDirectory, *arguments: str, as_json: bool = False) -> Result:
    group = audit_group(
        lambda: Audited(directory, HUB, [HUB_KEY.public], as_json), click.option("--unused", expose_value=False)
    )
    return CliRunner().invoke(group, arguments)


def test_verify(written: AuditDirectory) -> None:
    done = run(written, "verify")
    assert (done.exit_code, done.stdout.splitlines()[1]) == (0, "sealed   up to 1, 2 not yet")
    assert "nobody changed it" in done.stdout
    verdict = json.loads(run(written, "verify", as_json=True).stdout)
    assert (verdict["first"], verdict["last"], verdict["unsealed"], verdict["ok"]) == (1, 3, 2, True)


def test_nothing_yet(directory: AuditDirectory) -> None:
    done = run(directory, "verify")
    assert (done.exit_code, done.stdout.split()[:2]) == (0, ["lines", "none"])
    assert run(directory, "show").stdout == ""


def test_what_is_wrong_is_told_and_the_exit_code_says_so(written: AuditDirectory) -> None:
    content = written.current.read_text().replace("token:ops", "token:him")
    written.current.write_text(content)
    done = run(written, "verify")
    assert done.exit_code == 1
    assert "WRONG  audit.jsonl line 3: line 2 is not the one that 3 followed" in done.stdout
    verdict = run(written, "verify", as_json=True)
    assert (verdict.exit_code, json.loads(verdict.stdout)["findings"][0]["line"]) == (1, 3)


def test_an_end_that_is_missing_has_no_place(written: AuditDirectory) -> None:
    written.current.write_text("")
    done = run(written, "verify")
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (
        1,
        "WRONG  lines 1 to 1 are missing: a checkpoint there was seen before",
    )


def test_since(written: AuditDirectory) -> None:
    assert run(written, "verify", "--since", "9999").stdout.split()[1] == "none"


@pytest.mark.attack(56)
def test_show(written: AuditDirectory) -> None:
    first, second = run(written, "show").stdout.splitlines()
    assert first.split("  ")[1:] == ["command.decided", "by token:ops", 'peer=build-1 decisions=[{"ids": ["a"]}]']
    assert "\x1b" not in second
    assert [json.loads(line)["n"] for line in run(written, "show", as_json=True).stdout.splitlines()] == [2, 3]


@pytest.mark.parametrize(
    ("arguments", "numbers"),
    [
        (["--limit", "1"], [3]),
        (["--peer", "build-1"], [2]),
        (["--by", "token:ops"], [2]),
        (["--id", "a"], [2]),
        (["--event", "audit.checkpoint"], [1]),
        (["--until", "2000"], []),
        (["--outcome", "x"], []),
    ],
)
def test_which_lines(written: AuditDirectory, arguments: list[str], numbers: list[int]) -> None:
    shown = run(written, "show", *arguments, as_json=True).stdout.splitlines()
    assert [json.loads(line)["n"] for line in shown] == numbers
