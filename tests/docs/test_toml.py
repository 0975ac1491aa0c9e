"""Configuration on the pages is configuration: the settings of the file that a block names read it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from hub.settings import HubDirectory
from hub.settings import load as load_hub
from spoke.cli.policy import parse_policy
from spoke.profiles import Shelf
from spoke.settings import SpokeDirectory
from spoke.settings import load as load_spoke
from tests.docs.blocks import Block, of_kind

NODE = '[node]\nid = "node-1"\nlisten = "127.0.0.1:0"\n'


def _whole(text: str) -> str:
    """Return a file with the least that a node needs beside the block."""
    tables = tomllib.loads(text)
    if "node" not in tables:
        return f"{NODE}\n{text}"
    missing = "".join(f"{line}\n" for line in NODE.splitlines()[1:] if line.split()[0] not in tables["node"])
    return re.sub(r"(?m)^\[node\].*\n", lambda found: found[0] + missing, text, count=1)


def read(file: str, text: str, directory: Path) -> None:
    """Read the text as the file of that name; raises what the node says to a wrong one."""
    match Path(file):
        case Path(name="hub.toml"):
            (directory / file).write_text(_whole(text))
            load_hub(HubDirectory(directory))
        case Path(name="spoke.toml"):
            (directory / file).write_text(_whole(text))
            load_spoke(SpokeDirectory(directory))
        case Path(name="rules.toml"):
            parse_policy(text.encode())
        case Path(parent=Path(name="profiles"), stem=profile):
            (directory / "profiles").mkdir()
            (directory / file).write_text(text)
            Shelf(directory).get(profile)
        case _:
            raise AssertionError(f"nothing reads a file {file}")


@pytest.mark.parametrize("block", of_kind("toml"), ids=str)
def test_the_settings_of_the_file_read_the_block(block: Block, tmp_path: Path) -> None:
    files = [word for word in block.words[1:] if word != "edit"]
    assert files, "the info string names the file: ```toml spoke.toml"
    assert tomllib.loads(block.text)
    for file in files:
        read(file, block.text, tmp_path)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("hub.toml", "[tls]\nca_file = 'x'\n"),
        ("spoke.toml", "[agents.worker]\nprofile = 'no-such-profile'\n"),
        ("spoke.toml", "[agents.worker.limits]\nmemory = 1\n"),
        ("spoke.toml", "[node]\nlink = 'sometimes'\n"),
        ("rules.toml", "agent_type = ['worker']\n"),
        ("profiles/mine.toml", "extends = 'nothing'\n"),
        ("other.toml", "a = 1\n"),
    ],
)
def test_a_wrong_block_is_not_taken(file: str, text: str, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"ca_file|no-such|memory|link|agent_type|nothing"):
        read(file, text, tmp_path)
