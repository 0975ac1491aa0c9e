"""What the sandbox shows an agent, as bubblewrap is told it; what bubblewrap makes of it is tested in tests/sandbox."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from pydantic import ValidationError

from common.agent_state import AgentType
from common.errors import LocalError
from common.repository import parse_repository
from spoke.confinement import AgentLimits, SandboxConfig
from spoke.runs import Run
from spoke.sandbox import Sandbox, SandboxMissing, probe, sandboxes
from spoke.supervision.run_dir import Limits
from spoke.workspace import Workspace

AGENT = "0199a0b1-0000-7000-8000-000000000001"


@pytest.fixture
def hidden(tmp_path: Path) -> Path:
    """The spoke's directory."""
    directory = tmp_path / "spoke"
    directory.mkdir()
    return directory


def program(directory: Path, script: str) -> Path:
    directory.mkdir(exist_ok=True)
    file = directory / "bwrap"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    return file


def confined(hidden: Path, argv: Sequence[str] = ("agent",), **members: object) -> list[str]:
    """Return the argv that a sandbox of these settings makes."""
    path = hidden / "workspaces" / "agents" / "hub-eu" / AGENT
    repository = parse_repository("https://git.example.org/app.git")
    workspace = Workspace("hub-eu", AGENT, repository, "main", "0" * 40, path, hidden / "mirror" / "objects")
    run = Run(hidden / "runs" / "hub-eu" / AGENT / "1")
    sandbox = Sandbox(SandboxConfig.model_validate({"sandbox": "bwrap", **members}), hidden)
    found = program(hidden.parent / "bin", "exit 0")
    return list(sandbox.confine(argv, workspace, run, str(found.parent)))


def shown(argv: Sequence[str], option: str) -> list[str]:
    return [argv[number + 1] for number, argument in enumerate(argv) if argument == option]


def test_only_its_own_is_writable(hidden: Path) -> None:
    argv = confined(hidden)
    agent, run = f"{hidden}/workspaces/agents/hub-eu/{AGENT}", f"{hidden}/runs/hub-eu/{AGENT}/1"
    own = [f"{run}/tmp", f"{agent}/tree", f"{agent}/repo.git", f"{run}/home", f"{run}/tmp", f"{run}/out"]
    assert shown(argv, "--bind") == own
    assert shown(argv, "--remount-ro") == [str(hidden), "/"]


@pytest.mark.parametrize(("kind", "option"), [("read_only", "--ro-bind"), ("writable", "--bind")])
def test_of_the_spoke_s_directory_nothing_else_is_shown(hidden: Path, kind: str, option: str) -> None:
    argv = confined(hidden, **{kind: [str(hidden.parent)]})
    masked = argv.index(str(hidden))
    assert argv[masked - 1] == "--tmpfs"
    before = [place for place in shown(argv[:masked], option) if not place.startswith(f"{hidden}/")]
    later = {option: shown(argv[masked + 1 :], option) for option in ("--bind", "--ro-bind", "--ro-bind-try")}
    assert later["--ro-bind-try"] == [f"{hidden}/runs/hub-eu/{AGENT}/1/prompt.md"]
    assert later["--ro-bind"] == [f"{hidden}/mirror/objects", f"{hidden}/runs/hub-eu/{AGENT}/1/task.json"]
    assert all(place.startswith(f"{hidden}/") for place in later["--bind"])
    assert before == [str(hidden.parent)]


@pytest.mark.parametrize("network", [True, False])
def test_the_network_is_shared_only_when_asked_for(hidden: Path, network: bool) -> None:
    argv = confined(hidden, network=network)
    assert "--unshare-all" in argv
    assert ("--share-net" in argv) == network


def test_the_command_follows_and_none_of_it_is_an_option(hidden: Path) -> None:
    argv = confined(hidden, ["agent", "--bind", "/", "/"])
    assert argv[argv.index("--") + 1 :] == ["agent", "--bind", "/", "/"]


def test_the_files_and_the_python_that_a_command_names_are_shown(hidden: Path, tmp_path: Path) -> None:
    script = tmp_path / "agent.py"
    script.write_text("")
    found = shown(
        confined(hidden, [sys.executable, str(script), "/absent", str(tmp_path), "/usr/bin/env"]), "--ro-bind"
    )
    assert sys.prefix in found
    assert str(script) in found
    assert not {"/absent", str(tmp_path), "/usr/bin/env"} & set(found)


def test_of_dev_and_proc_it_has_its_own(hidden: Path) -> None:
    assert Path("/proc/version").is_file()  # as /dev/stdout is, where a spoke's goes into a file
    assert "/proc/version" not in confined(hidden, ["agent", "/proc/version"])[:-1]


def test_without_bwrap_nothing_is_run_plainly(hidden: Path, tmp_path: Path) -> None:
    sandbox = Sandbox(SandboxConfig(sandbox="bwrap"), hidden)
    workspace = Workspace("p", AGENT, parse_repository("https://git.example.org/a.git"), "main", "0", hidden, hidden)
    with pytest.raises(SandboxMissing, match="install bubblewrap") as caught:
        sandbox.confine(["agent"], workspace, Run(hidden), str(tmp_path))
    assert (caught.value.code, caught.value.retryable) == ("spawn_failed", False)


@pytest.mark.parametrize("kind", ["read_only", "writable"])
@pytest.mark.parametrize("place", ["spoke", "spoke/keys", "link", "above"])
def test_a_path_that_leads_to_the_spoke_s_directory_is_refused(
    hidden: Path, tmp_path: Path, place: str, kind: str
) -> None:
    (tmp_path / "link").symlink_to(hidden)
    (tmp_path / "above").symlink_to(tmp_path)
    config = SandboxConfig.model_validate({"sandbox": "bwrap", kind: [str(tmp_path / place)]})
    with pytest.raises(LocalError, match="own directory") as caught:
        sandboxes({"worker": config}, hidden)
    assert caught.value.code == "config"


@pytest.mark.parametrize("path", ["relative", "/a/../b", "/a\0b", ""])
def test_other_paths_than_absolute_ones_are_refused(path: str) -> None:
    with pytest.raises(ValidationError):
        SandboxConfig(sandbox="bwrap", read_only=[path])


def test_only_types_that_ask_for_it_have_one(hidden: Path) -> None:
    configured: dict[AgentType, SandboxConfig] = {
        "worker": SandboxConfig(sandbox="bwrap"),
        "tester": SandboxConfig(),
    }
    assert set(sandboxes(configured, hidden)) == {"worker"}


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        pytest.param("exit 0", None, id="works"),
        pytest.param("echo one >&2; echo 'No permissions' >&2; exit 1", "No permissions", id="refused"),
        pytest.param("exit 1", "bwrap failed without a word", id="silent"),
    ],
)
def test_probe(tmp_path: Path, script: str, problem: str | None) -> None:
    assert probe(str(program(tmp_path / "bin", script))) == problem


def test_probing_what_is_not_there(tmp_path: Path) -> None:
    assert "cannot be run" in (probe(str(tmp_path / "bwrap")) or "")


def test_limits_have_units() -> None:
    limits = AgentLimits(memory_mib=2, address_space_mib=3, processes=4, cpu_s=5, open_files=6, file_mib=7)
    mib = 1024 * 1024
    assert limits.to_supervision() == Limits(
        nofile=6, fsize_bytes=7 * mib, cpu_s=5, as_bytes=3 * mib, memory_bytes=2 * mib, tasks=4
    )
    assert AgentLimits().to_supervision() == Limits()


@pytest.mark.parametrize("value", [0, -1, "1", 1.5, True])
def test_a_limit_is_a_whole_number_from_one(value: object) -> None:
    with pytest.raises(ValidationError):
        AgentLimits.model_validate({"processes": value})
