"""The commands of every page, typed on machines that know nothing but what the page says before."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import pytest

from tests.docs.blocks import Block, blocks
from tests.docs.console import Step, edit, run_page, steps
from tests.docs.examples import Examples, Mismatch
from tests.docs.machine import machines
from tests.docs.network import network
from tests.spoke_node import processes_of

PAGES = sorted({block.page for block in blocks() if block.kind == "console"})
ID = "01a21864-4656-792a-acb7-596d42eab20e"
REAL = "01a21863-b481-7e37-87af-4c8588ab3718"


@pytest.mark.docs
@pytest.mark.timeout(400)
@pytest.mark.parametrize("page", PAGES)
async def test_a_page_does_what_it_shows(page: str) -> None:
    # Sockets below have names of at most 107 characters, which `tmp_path` leaves no room for.
    with tempfile.TemporaryDirectory(prefix="hubspoke-docs-") as path, machines(Path(path) / "m") as place:
        async with network(place.address_of) as place.proxy:
            await asyncio.to_thread(run_page, [block for block in blocks() if block.page == page], place)


def test_commands_are_told_from_what_they_print() -> None:
    text = "hub$ hub invite\nhubspoke1.x\n$ echo a \\\n    b\na b\nbuild-1$ true\n"
    assert list(steps(text)) == [
        Step("hub", "hub invite", "hubspoke1.x\n"),
        Step("", "echo a \\\n    b", "a b\n"),
        Step("build-1", "true"),
    ]
    with pytest.raises(ValueError, match="no command before"):
        list(steps("ready http://127.0.0.1:8700\n"))


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        (f"agent  {ID}\n", f"agent    {REAL}\n"),
        (f"{ID} queued\n…\n{ID} completed\n", f"{REAL} queued\n{REAL} spawning\n{REAL} running\n{REAL} completed\n"),
        ("since  3 s ago (2026-11-26T15:05:30.000Z)\n", "since  now (2027-01-01T00:00:00.123Z)\n"),
        ("ok  disk  60.5 GiB free at …\n", "ok  disk  7 GiB free at /home/ops\n"),
        ("commit cf8933c8\n", "commit 0123abc\n"),
        ("", ""),
    ],
)
def test_what_is_as_on_the_page_fits(shown: str, printed: str) -> None:
    assert Examples().fits(shown, printed)


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        (f"{ID} queued\n{ID} running\n", f"{REAL} queued\n{ID} running\n"),
        ("state  active\n", "state  pending\n"),
        ("state  active\n", "state  active\nwarning: more\n"),
        ("", "warning\n"),
        ("ready\n", ""),
        ("exit code  0\n", "exit code  1\n"),
        ("two words\n", "twowords\n"),
    ],
)
def test_what_is_not_as_on_the_page_does_not_fit(shown: str, printed: str) -> None:
    with pytest.raises(Mismatch):
        Examples().check(shown, printed)


def test_an_example_stands_for_the_same_from_then_on() -> None:
    examples = Examples()
    examples.check(f"{ID}\nhubspoke1.eyJodWIi…\n", f"{REAL}\nhubspoke1.AA\n")
    assert (
        examples.fill(f"hub logs {ID}; spoke join hubspoke1.eyJodWIi…") == f"hub logs {REAL}; spoke join hubspoke1.AA"
    )
    assert examples.fits(f"{ID}\n", f"{REAL}\n")
    assert not examples.fits(f"{ID}\n", f"{ID}\n")


def test_an_edit_changes_a_table_or_adds_one(tmp_path: Path) -> None:
    file = tmp_path / "spoke.toml"
    file.write_text("[node]\nskew_s = 1\n\n[policy]   # rules\nagents = 1\nqueued = 2\n\n[limits]\nqueue = 3\n")
    edit(file, "[policy]\nagents = 9\n[audit]\nfiles = 4\n")
    assert (
        file.read_text()
        == "[node]\nskew_s = 1\n\n[policy]\nagents = 9\n\n[limits]\nqueue = 3\n\n[audit]\nfiles = 4\n\n"
    )


def test_what_a_page_starts_may_not_stay(tmp_path: Path) -> None:
    page = [Block("docs/new.md", 1, ("console",), "$ sleep 300 &\n")]
    with pytest.raises(AssertionError, match="processes outlived"), machines(tmp_path / "m", 0.5) as place:
        run_page(page, place)


def test_a_page_that_shows_something_else_fails_and_says_where(tmp_path: Path) -> None:
    page = [Block("docs/new.md", 7, ("console",), "$ echo one\ntwo\n")]
    where = r"(?s)docs/new.md:7: \$ echo one.*-two.*\+one"
    with pytest.raises(Mismatch, match=where), machines(tmp_path / "m") as place:
        run_page(page, place)


@pytest.mark.parametrize("text", ["$ false\n", "$ echo error: no\nerror: no\n"])
def test_a_command_succeeds_unless_its_error_is_shown(tmp_path: Path, text: str) -> None:
    with pytest.raises(Mismatch), machines(tmp_path / "m") as place:
        run_page([Block("docs/new.md", 1, ("console",), text)], place)


@pytest.mark.slow
def test_a_command_that_does_not_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.docs.machine.DEADLINE_S", 0.5)
    with pytest.raises(Mismatch, match="waited"), machines(tmp_path / "m", 0.5) as place:
        run_page([Block("docs/new.md", 1, ("console",), "$ sleep 300\n")], place)
    assert processes_of(tmp_path) == {}
