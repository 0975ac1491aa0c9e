from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from common.agent_state import AGENT_TYPES, AgentType
from common.commands import Context
from common.errors import LocalError
from spoke.profiles import AgentConfig, Assignment, Shelf, agent_environment, task_document

SHELF = Shelf()

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
    profile = SHELF.resolve(AgentConfig(), "worker")
    assert profile.name == "report"
    assert profile.command[:2] == [sys.executable, "-I"]
    assert Path(profile.command[2]).is_file()


def test_command_takes_the_operators_command() -> None:
    config = AgentConfig(profile="command", command=["/bin/x", "{python}"], arguments=["-v"], env=["TOKEN"])
    profile = SHELF.resolve(config, "tester")
    assert (profile.command, profile.arguments["tester"]) == (["/bin/x", "{python}"], ["-v"])
    assert profile.env == ["TOKEN"]


def test_every_profile_that_is_shipped_can_be_resolved() -> None:
    assert {"aider", "claude", "codex", "command", "gemini", "opencode", "report"} <= set(SHELF.names())
    for name in SHELF.names():
        profile = SHELF.get(name)
        assert profile.about
        assert profile.takes_command or profile.command
        assert set(profile.masks) == set(profile.env)


@pytest.mark.parametrize("agent_type", AGENT_TYPES)
@pytest.mark.parametrize("name", ["aider", "claude", "codex", "gemini", "opencode"])
def test_a_program_that_tells_how_it_went_is_judged_by_that(name: str, agent_type: AgentType) -> None:
    profile = SHELF.resolve(AgentConfig(profile=name, model="m"), agent_type)
    assert (profile.success, profile.output) == ("conclusion", name)
    assert profile.install
    assert f"{profile.model_flag}=m" in profile.arguments[agent_type]


def test_caps_and_arguments_of_the_operator_come_last() -> None:
    config = AgentConfig(profile="claude", max_turns=3, max_cost_usd=0.5, arguments=["--effort=high"])
    arguments = SHELF.resolve(config, "worker").arguments["worker"]
    assert arguments[-3:] == ["--max-turns=3", "--max-budget-usd=0.5", "--effort=high"]


BAD_CONFIGS = {
    "NUL": {"profile": "command", "command": ["a\0"]},
    "empty command": {"profile": "command", "command": []},
    "variable with =": {"env": ["A=B"]},
    "our variable": {"env": ["HUBSPOKE_TASK_FILE"]},
    "unknown name": {"comand": ["x"]},
    "one text": {"profile": "command", "command": "rm -rf /"},
    "no turns": {"max_turns": 0},
    "free": {"max_cost_usd": 0},
}


@pytest.mark.parametrize("config", BAD_CONFIGS.values(), ids=BAD_CONFIGS.keys())
def test_a_config_that_cannot_be_is_refused(config: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        AgentConfig.model_validate(config)


UNUSABLE_CONFIGS = {
    "unknown profile": ({"profile": "nope"}, "unknown profile 'nope'; known are aider, claude"),
    "path as profile": ({"profile": "../report"}, "unknown profile"),
    "no command": ({"profile": "command"}, "needs a command"),
    "command for report": ({"command": ["x"]}, "takes no command; use arguments"),
    "a flag of the profile's": ({"profile": "claude", "arguments": ["--output-format=text"]}, "is set by profile"),
    "another": ({"profile": "claude", "arguments": ["-p"]}, "is set by profile"),
    "no such cap": ({"profile": "codex", "max_turns": 3}, "has no max_turns; leave it out"),
    "no model": ({"model": "x"}, "has no model"),
}


@pytest.mark.parametrize(("config", "says"), UNUSABLE_CONFIGS.values(), ids=UNUSABLE_CONFIGS.keys())
def test_a_config_that_cannot_work_is_refused(config: dict[str, object], says: str) -> None:
    with pytest.raises(LocalError, match=re.escape(says)) as caught:
        SHELF.resolve(AgentConfig.model_validate(config), "worker")
    assert caught.value.code == "config"


class TestProfilesOfTheOperator:
    @pytest.fixture
    def shelf(self, tmp_path: Path) -> Shelf:
        (tmp_path / "profiles").mkdir()
        return Shelf(tmp_path)

    def write(self, tmp_path: Path, name: str, text: str) -> None:
        (tmp_path / "profiles" / f"{name}.toml").write_text(text)

    def test_one_of_its_own(self, shelf: Shelf, tmp_path: Path) -> None:
        self.write(tmp_path, "mine", 'command = ["/srv/agent", "{tree}"]\nprompt_via = "stdin"\n')
        assert "mine" in shelf.names()
        assert shelf.get("mine").command == ["/srv/agent", "{tree}"]

    def test_one_that_stands_on_a_shipped_one(self, shelf: Shelf, tmp_path: Path) -> None:
        self.write(tmp_path, "careful", 'extends = "claude"\nmodel_flag = "--the-model"\n')
        careful, claude = shelf.get("careful"), shelf.get("claude")
        assert (careful.name, careful.model_flag) == ("careful", "--the-model")
        assert (careful.command, careful.output) == (claude.command, "claude")

    def test_one_that_takes_the_place_of_a_shipped_one(self, shelf: Shelf, tmp_path: Path) -> None:
        self.write(tmp_path, "claude", 'extends = "claude"\nenv = []\nmasks = []\n')
        assert (shelf.get("claude").env, shelf.get("claude").output) == ([], "claude")

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            pytest.param("command = [", "cannot be read", id="no TOML"),
            pytest.param("about = 3\ncommand = ['x']", "profile bad: about", id="wrong type"),
            pytest.param("comand = ['x']", "profile bad", id="unknown member"),
            pytest.param("about = 'x'", "a profile needs a command", id="no command"),
            pytest.param("command = ['x', '{task}']", "unknown placeholder {task}", id="placeholder"),
            pytest.param("extends = 'bad2'", "unknown profile 'bad2'", id="base that is not there"),
            pytest.param("extends = 'bad'", "there is no shipped profile 'bad' to extend", id="itself"),
            pytest.param("extends = 'loop'", "extends itself", id="a loop"),
            pytest.param("extends = 3", "extends takes the name of a profile", id="no name"),
            pytest.param("command = ['x']\nsuccess = 'conclusion'", "needs an output that tells it", id="no word"),
            pytest.param("command = ['x']\nskills_dir = '../x'", "no path below the agent's home", id="skills outside"),
        ],
    )
    def test_one_that_cannot_be_used(self, shelf: Shelf, tmp_path: Path, text: str, says: str) -> None:
        self.write(tmp_path, "loop", "extends = 'loop2'")
        self.write(tmp_path, "loop2", "extends = 'loop'")
        self.write(tmp_path, "bad", text)
        with pytest.raises(LocalError, match=re.escape(says)) as caught:
            shelf.get("bad")
        assert caught.value.code == "config"


@pytest.mark.parametrize(("exit_code", "reason"), [(0, None), (1, "exit_nonzero"), (2, "agent_error")])
def test_exit_codes_have_reasons(exit_code: int, reason: str | None) -> None:
    assert SHELF.get("report").reason_for(exit_code) == reason


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
    profile = SHELF.resolve(AgentConfig(profile="command", command=["x"], env=["TOKEN", "ABSENT"]), "worker")
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
    profile = SHELF.resolve(AgentConfig(env=["HOME"]), "worker")
    assert agent_environment(profile, {"HOME": "/home/me"}, assignment)["HOME"] == "/home/me"
    assert agent_environment(profile, {}, assignment)["PATH"]


@pytest.mark.attack(54)
def test_work_items_reach_the_agent_as_data_and_nowhere_else(assignment: Assignment) -> None:
    profile = SHELF.resolve(AgentConfig(profile="command", command=["/bin/agent", "--flag"]), "worker")
    document = json.loads(task_document(assignment))
    assert document["context"]["workItems"] == HOSTILE_ITEMS
    assert document["context"]["skills"] == ["python"]
    assert document["workspace"] == {"branch": assignment.branch, "base": assignment.base}
    assert profile.command == ["/bin/agent", "--flag"]
    environment = agent_environment(profile, os.environ, assignment)
    assert not any(item in value for item in HOSTILE_ITEMS for value in environment.values() if item != "-h")
