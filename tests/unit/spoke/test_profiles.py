from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from common.commands import Context
from spoke.profiles import AgentConfig, Assignment, agent_environment, profile_names, resolve_profile, task_document

HOSTILE_ITEMS = ["--dangerously-skip-permissions", "@/etc/passwd", "a\0b", "x" * 10_000, "$(touch x)", "-h", "\u202e"]


@pytest.fixture
def assignment(tmp_path: Path) -> Assignment:
    return Assignment(
        agent_id="01990000-0000-7000-8000-000000000001",
        task_id="T-42",
        agent_type="worker",
        attempt=1,
        timeout_s=60,
        context=Context.model_validate(
            {"repository": "https://h/a", "branch": "main", "workItems": HOSTILE_ITEMS, "skills": ["python"]}
        ),
        branch="hubspoke/01990000-0000-7000-8000-000000000001",
        base="1" * 40,
        home=tmp_path / "home",
        temporary=tmp_path / "tmp",
        task_file=tmp_path / "task.json",
        result_file=tmp_path / "out/result.json",
    )


def test_report_is_the_default_and_runs_isolated() -> None:
    profile = resolve_profile(AgentConfig())
    assert profile.name == "report"
    assert profile.command[:2] == [sys.executable, "-I"]
    assert Path(profile.command[2]).is_file()


def test_command_takes_the_operators_command() -> None:
    profile = resolve_profile(AgentConfig(profile="command", command=["/bin/x", "{python}"], env=["TOKEN"]))
    assert profile.command == ["/bin/x", "{python}"]
    assert profile.env == ["TOKEN"]


def test_every_profile_that_is_shipped_can_be_resolved() -> None:
    assert profile_names() == ("command", "report")


BAD_CONFIGS = {
    "unknown profile": {"profile": "nope"},
    "path as profile": {"profile": "../report"},
    "no command": {"profile": "command"},
    "empty command": {"profile": "command", "command": []},
    "command for report": {"command": ["x"]},
    "NUL": {"profile": "command", "command": ["a\0"]},
    "variable with =": {"env": ["A=B"]},
    "our variable": {"env": ["HUBSPOKE_TASK_FILE"]},
    "unknown name": {"comand": ["x"]},
    "one text": {"profile": "command", "command": "rm -rf /"},
}


@pytest.mark.parametrize("config", BAD_CONFIGS.values(), ids=BAD_CONFIGS.keys())
def test_a_config_that_cannot_work_is_refused(config: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        AgentConfig.model_validate(config)


@pytest.mark.parametrize(("exit_code", "reason"), [(0, None), (1, "exit_nonzero"), (2, "agent_error")])
def test_exit_codes_have_reasons(exit_code: int, reason: str | None) -> None:
    assert resolve_profile(AgentConfig()).reason_for(exit_code) == reason


@pytest.mark.attack(53)
def test_an_agent_gets_a_listed_environment_only(assignment: Assignment) -> None:
    spoke = {
        "PATH": "/opt/bin:/usr/bin",
        "TOKEN": "passed on",
        "HOME": "/root",
        **dict.fromkeys(
            ("LD_PRELOAD", "GIT_SSH_COMMAND", "ANTHROPIC_BASE_URL", "PYTHONPATH", "SPOKE_VALKEY__URL"), "x"
        ),
        "HUBSPOKE_AGENT_ID": "someone else",
    }
    profile = resolve_profile(AgentConfig(profile="command", command=["x"], env=["TOKEN", "ABSENT"]))
    environment = agent_environment(profile, spoke, assignment)
    assert environment == {
        "PATH": "/opt/bin:/usr/bin",
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "HOME": str(assignment.home),
        "TMPDIR": str(assignment.temporary),
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_AUTHOR_NAME": "hubspoke worker",
        "GIT_AUTHOR_EMAIL": f"{assignment.agent_id}@hubspoke.invalid",
        "GIT_COMMITTER_NAME": "hubspoke worker",
        "GIT_COMMITTER_EMAIL": f"{assignment.agent_id}@hubspoke.invalid",
        "TOKEN": "passed on",
        "HUBSPOKE_AGENT_ID": assignment.agent_id,
        "HUBSPOKE_AGENT_TYPE": "worker",
        "HUBSPOKE_TASK_ID": "T-42",
        "HUBSPOKE_BRANCH": assignment.branch,
        "HUBSPOKE_TASK_FILE": str(assignment.task_file),
        "HUBSPOKE_RESULT_FILE": str(assignment.result_file),
    }


def test_a_listed_name_beats_our_default(assignment: Assignment) -> None:
    profile = resolve_profile(AgentConfig(env=["HOME"]))
    assert agent_environment(profile, {"HOME": "/home/me"}, assignment)["HOME"] == "/home/me"
    assert agent_environment(profile, {}, assignment)["PATH"]


@pytest.mark.attack(54)
def test_work_items_reach_the_agent_as_data_and_nowhere_else(assignment: Assignment) -> None:
    profile = resolve_profile(AgentConfig(profile="command", command=["/bin/agent", "--flag"]))
    document = json.loads(task_document(assignment))
    assert document["context"]["workItems"] == HOSTILE_ITEMS
    assert document["context"]["skills"] == ["python"]
    assert document["workspace"] == {"branch": assignment.branch, "base": assignment.base}
    assert profile.command == ["/bin/agent", "--flag"]
    environment = agent_environment(profile, os.environ, assignment)
    assert not any(item in value for item in HOSTILE_ITEMS for value in environment.values() if item != "-h")
