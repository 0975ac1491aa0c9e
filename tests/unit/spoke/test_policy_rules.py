from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from common.agent_state import AGENT_TYPES
from common.commands import COMMAND_NAMES, Spawn, parse_commands
from common.errors import CommandRefused
from spoke.policy import LOCAL_POLICY, Granted, Policy, check_command, grant, judge_spawn, read_policy
from tests.envelopes import id_of, spawn

GLOB = "https://git.example.org/team/**"
OPEN: dict[str, Any] = {"commands": ["spawn"], "agent_types": ["worker"], "repositories": [GLOB]}


def policy(**rules: Any) -> Policy:
    return Policy.model_validate({**OPEN, **rules})


def asked(**changes: Any) -> Spawn:
    context = {**spawn()["context"], **changes.pop("context", {})}
    return Spawn.model_validate(spawn(context=context, **changes))


def refusal(rules: Policy, command: Any) -> CommandRefused:
    with pytest.raises(CommandRefused) as refused:
        check_command(rules, command)
    return refused.value


def test_what_every_rule_allows_is_allowed() -> None:
    check_command(policy(), asked())


@pytest.mark.attack(39)
@pytest.mark.parametrize("rule", OPEN)
def test_a_missing_or_empty_list_allows_nothing(rule: str) -> None:
    for rules in ({**OPEN, rule: []}, {name: value for name, value in OPEN.items() if name != rule}):
        refused = refusal(Policy.model_validate(rules), asked())
        assert refused.code == "not_allowed"
        assert refused.message.startswith(f"policy.{rule} ")


@pytest.mark.attack(39)
def test_an_empty_policy_allows_no_command() -> None:
    others = [
        {"id": id_of(number), "command": name, "agentId": id_of(1), "text": "x"}
        for number, name in enumerate(COMMAND_NAMES)
        if name in {"send", "resume"}
    ]
    plain = [{"id": id_of(9), "command": name, "agentId": id_of(1)} for name in ("status", "kill", "logs", "diff")]
    control = [{"id": id_of(8), "command": name} for name in ("freeze", "thaw")]
    commands = parse_commands([spawn(), *others, *plain, *control])
    assert {command.command for command in commands} == set(COMMAND_NAMES)
    for command in commands:
        assert refusal(Policy(), command).message == f"policy.commands does not list {command.command}"


RULES: dict[str, tuple[dict[str, Any], dict[str, Any], str | None]] = {
    "another agent type": ({}, {"agentType": "tester"}, "policy.agent_types"),
    "another host": ({}, {"context": {"repository": "https://git.example.com/team/app"}}, "policy.repositories"),
    "another scheme": ({}, {"context": {"repository": "ssh://git.example.org/team/app"}}, "policy.repositories"),
    "another port": ({}, {"context": {"repository": "https://git.example.org:8443/team/app"}}, "policy.repositories"),
    "a user": ({}, {"context": {"repository": "https://me@git.example.org/team/app"}}, "policy.repositories"),
    "beside the path": ({}, {"context": {"repository": "https://git.example.org/team2/app"}}, "policy.repositories"),
    "the host in capitals": ({}, {"context": {"repository": "https://GIT.example.org/team/app"}}, None),
    "the default port": ({}, {"context": {"repository": "https://git.example.org:443/team/app"}}, None),
    "a trailing .git": ({"repositories": ["https://git.example.org/team/app"]}, {}, None),
    "the path in capitals": (
        {},
        {"context": {"repository": "https://git.example.org/Team/app"}},
        "policy.repositories",
    ),
    "any branch unless they are listed": ({}, {"context": {"branch": "release/1"}}, None),
    "a listed branch": ({"branches": ["feature/*"]}, {"context": {"branch": "feature/a"}}, None),
    "another branch": ({"branches": ["feature/*"]}, {"context": {"branch": "main"}}, "policy.branches"),
    "no branch": ({"branches": []}, {}, "policy.branches"),
    "any skill unless they are listed": ({}, {"context": {"skills": ["rust", "python"]}}, None),
    "a listed skill": ({"skills": ["py*", "rust"]}, {"context": {"skills": ["rust", "python"]}}, None),
    "one skill too many": ({"skills": ["py*"]}, {"context": {"skills": ["python", "rust"]}}, "policy.skills"),
    "a longer skill": ({"skills": ["py"]}, {"context": {"skills": ["python"]}}, "policy.skills"),
    "no skill": ({"skills": []}, {"context": {"skills": ["python"]}}, "policy.skills"),
    "no skill, and none asked for": ({"skills": []}, {"context": {"skills": []}}, None),
}


@pytest.mark.attack(39)
@pytest.mark.parametrize(("rules", "changes", "rule"), RULES.values(), ids=RULES)
def test_a_refusal_names_its_rule(rules: dict[str, Any], changes: dict[str, Any], rule: str | None) -> None:
    command = asked(**changes)
    if rule is None:
        check_command(policy(**rules), command)
    else:
        refused = refusal(policy(**rules), command)
        assert (refused.code, refused.message.split()[0]) == ("not_allowed", rule)


@pytest.mark.attack(39)
@pytest.mark.parametrize("path", ["team/../secret/app", "team/%2e%2e/secret/app", "team//app", "team/./app"])
def test_a_path_that_could_be_read_otherwise_is_invalid(path: str) -> None:
    refused = refusal(policy(), asked(context={"repository": f"https://git.example.org/{path}"}))
    assert refused.code == "invalid"


def test_a_branch_that_nobody_could_use_is_invalid_even_where_all_are_allowed() -> None:
    assert refusal(policy(branches=["**"]), asked(context={"branch": "-main"})).code == "invalid"


UNREADABLE: dict[str, dict[str, Any]] = {
    "unknown rule": {"repos": []},
    "unknown command": {"commands": ["spwan"]},
    "unknown agent type": {"agent_types": ["boss"]},
    "repository glob without scheme": {"repositories": ["git.example.org/**"]},
    "branch glob with a class": {"branches": ["[ab]"]},
    "skill glob with a slash": {"skills": ["a/b"]},
    "a list that is none": {"commands": "spawn"},
    "a number as text": {"agents": "4"},
    "a number below": {"agents": -1},
    "a priority that is none": {"best_priority": 0},
    "a rate of none": {"rate_per_s": 0},
}


@pytest.mark.parametrize("rules", UNREADABLE.values(), ids=UNREADABLE)
def test_a_policy_that_would_not_mean_what_was_written_is_refused(rules: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        policy(**rules)


@pytest.mark.attack(39)
@pytest.mark.parametrize("stored", [{"repos": []}, [], None, {"commands": ["gone"]}])
def test_a_stored_policy_that_cannot_be_read_allows_nothing(stored: Any) -> None:
    assert read_policy(stored, "hub-eu") == Policy()
    assert read_policy(OPEN, "hub-eu") == policy()


@given(
    st.builds(Granted, st.integers(1, 10), st.integers(1, 86_400), st.integers(1, 10)),
    st.builds(Granted, st.integers(1, 10), st.integers(1, 86_400), st.integers(1, 10)),
)
def test_what_is_granted_is_never_more_than_asked_or_allowed(wanted: Granted, ceiling: Granted) -> None:
    rules = policy(best_priority=ceiling.priority, max_timeout_s=ceiling.timeout_s, max_attempts=ceiling.max_attempts)
    given_ = grant(rules, asked(priority=wanted.priority, timeoutS=wanted.timeout_s, maxAttempts=wanted.max_attempts))
    assert given_.priority == max(wanted.priority, ceiling.priority)
    assert given_.timeout_s == min(wanted.timeout_s, ceiling.timeout_s)
    assert given_.max_attempts == min(wanted.max_attempts, ceiling.max_attempts)


def test_the_operator_of_the_machine_may_ask_for_whatever_makes_sense() -> None:
    for agent_type in AGENT_TYPES:
        command = asked(agentType=agent_type, context={"repository": "file:///srv/app", "branch": "a/b"})
        check_command(LOCAL_POLICY, command)
        assert grant(LOCAL_POLICY, command) == Granted(command.priority, command.timeout_s, command.max_attempts)


def test_every_rule_says_why() -> None:
    verdicts = list(judge_spawn(policy(branches=["main"]), asked()))
    assert [(verdict.rule, verdict.detail) for verdict in verdicts] == [
        ("policy.agent_types", "lists worker"),
        ("policy.repositories", f"{GLOB} covers https://git.example.org/team/app"),
        ("policy.branches", "main covers main"),
        ("policy.skills", "covers python"),
    ]
    refused = [verdict.rule for verdict in judge_spawn(policy(branches=[], skills=[]), asked()) if verdict.refusal]
    assert refused == ["policy.branches", "policy.skills"]
