"""What the pages say about `make`: its targets cannot run inside of one of them, so each is asked what it would do."""

from __future__ import annotations

import shlex
import subprocess

import pytest

from tests.docs.blocks import ROOT, Block, of_kind


def make(*arguments: str) -> str:
    """Run `make` on the checkout and return what it says; nothing is built."""
    done = subprocess.run(["make", "-C", ROOT, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("block", of_kind("sh"), ids=str)
def test_every_target_is_there_and_in_the_list_of_targets(block: Block) -> None:
    listed = {line.split()[1] for line in make("help").splitlines()}
    for line in block.text.splitlines():
        program, *words = shlex.split(line, comments=True)
        assert program == "make", f"only `make` targets go unrun, not {line!r}"
        targets = [word for word in words if "=" not in word]
        assert targets
        assert set(targets) <= listed
        make("--dry-run", *words)
