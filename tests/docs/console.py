"""Runs the commands of one page, in their order, and holds what they print beside what the page shows.

A line that begins with a prompt, `hub$ ` or `$ `, is a command; after a backslash, or in quotes, it goes on with the
next line. What follows up to the next prompt is what it prints, stdout and stderr together. A command has to succeed,
unless the page shows its line of error.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.docs.blocks import Block
from tests.docs.examples import Examples, Mismatch
from tests.docs.machine import DEADLINE_S, Place
from tests.spoke_node import until

_PROMPT = re.compile(r"(?P<machine>[a-z0-9-]*)\$ (?P<command>.*)")
_TABLE = re.compile(r"(?m)^\[(?P<name>[\w.-]+)\].*\n(?:(?!\[).*\n)*")


@dataclass(slots=True)
class Step:
    """A command, where it is typed, and what it prints according to the page."""

    machine: str
    command: str
    shown: str = ""


def _goes_on(command: str) -> bool:
    if command.endswith("\\"):
        return True
    try:
        shlex.split(command, comments=True)
    except ValueError:
        return True  # a quotation is open
    return False


def steps(text: str) -> Iterator[Step]:
    """Yield the commands of a console block; raises `ValueError` where one does not begin with a prompt."""
    step: Step | None = None
    for line in text.splitlines():
        prompt = _PROMPT.fullmatch(line)
        if step is not None and _goes_on(step.command):
            step.command += f"\n{line}"
        elif prompt is not None:
            if step is not None:
                yield step
            step = Step(prompt["machine"], prompt["command"])
        elif step is None:
            raise ValueError(f"no command before {line!r}")
        else:
            step.shown += f"{line}\n"
    if step is not None:
        yield step


def run_page(page: list[Block], place: Place) -> None:
    """Do what the page says; raises `Mismatch` with the block, the command and the difference."""
    examples = Examples()
    for name in dict.fromkeys(step.machine for block in page if block.kind == "console" for step in steps(block.text)):
        place.machine(name)
    for block in page:
        if block.kind == "console":
            for step in steps(block.text):
                try:
                    _run(step, place, examples)
                except AssertionError as error:
                    raise Mismatch(f"{block}: {step.machine}$ {step.command}\n{error}") from error
        elif block.words[-1] == "edit":
            file = _settings_file(place, block.words[1])
            place.machine(file.relative_to(place.path).parts[0]).told(block.text)
            edit(file, place.real(block.text))


def _run(step: Step, place: Place, examples: Examples) -> None:
    given = place.machine(step.machine).run(examples.fill(step.command))
    if step.command.endswith("&"):
        # What it does in the background is not over with the command: wait for what the page promises.
        until(lambda: examples.fits(step.shown, given.printed), f"{step.shown!r}, but: {given.printed}", DEADLINE_S)
    examples.check(step.shown, given.printed)
    refused = re.search("(?m)^error: ", step.shown) is not None
    assert given.succeeded is not refused, "it failed" if not refused else "it succeeded"


def _settings_file(place: Place, name: str) -> Path:
    """Return the one file of that name in the directory of a node of the page."""
    (found,) = place.path.glob(f"*/.local/state/hubspoke/*/{name}")
    return found


def edit(path: Path, tables: str) -> None:
    """Change a configuration as a reader does: each table takes the place of the one of its name, or is added."""
    text = path.read_text()
    for table in _TABLE.finditer(tables):
        new = table[0].rstrip("\n") + "\n\n"
        old = next((old for old in _TABLE.finditer(text) if old["name"] == table["name"]), None)
        text = f"{text.rstrip()}\n\n{new}" if old is None else f"{text[: old.start()]}{new}{text[old.end() :]}"
    tomllib.loads(text)
    path.write_text(text)
