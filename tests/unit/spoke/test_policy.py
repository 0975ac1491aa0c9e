"""What a policy allows, and the rule that every refusal names."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from common.commands import Spawn, parse_commands
from common.errors import CommandRefused
from spoke.policy import LOCAL_POLICY, Policy, check_command
from tests.envelopes import id_of
from tests.envelopes import spawn as spawn_members

TEAM = "https://git.example.org/team/**"


def spawn(repository: str = "https://git.example.org/team/app.git", branch: str = "main", **changes: Any) -> Spawn:
    context = {"repository": repository, "branch": branch, "workItems": ["x"]}
    (command,) = parse_commands([spawn_members(context=context, **changes)])
    assert isinstance(command, Spawn)
    return command


def policy(**changes: Any) -> Policy:
    allowed = {"commands": ["spawn"], "agent_types": ["worker"], "repositories": [TEAM]}
    return Policy.model_validate({**allowed, **changes})


def refusal(rules: Policy, command: Any) -> tuple[str, str]:
    with pytest.raises(CommandRefused) as refused:
        check_command(rules, command)
    assert "git.example.org" not in refused.value.message, "a refusal repeats nothing that was sent"
    return refused.value.code, refused.value.message


def test_what_all_rules_allow_is_allowed() -> None:
    check_command(policy(), spawn())


@pytest.mark.attack(39)
@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"commands": []}, "policy.commands does not list spawn"),
        ({"commands": ["status", "kill"]}, "policy.commands does not list spawn"),
        ({"agent_types": []}, "policy.agent_types does not list worker"),
        ({"agent_types": ["tester"]}, "policy.agent_types does not list worker"),
        ({"repositories": []}, "policy.repositories has no pattern for this repository"),
        ({"repositories": ["https://git.example.org/other/**"]}, "policy.repositories has no pattern"),
    ],
    ids=["no commands", "other commands", "no types", "other types", "no repositories", "other repositories"],
)
def test_what_a_rule_does_not_list_is_refused_naming_the_rule(changes: dict[str, Any], rule: str) -> None:
    code, message = refusal(policy(**changes), spawn())
    assert code == "not_allowed"
    assert message.startswith(rule)


@pytest.mark.attack(39)
def test_an_empty_policy_allows_nothing() -> None:
    commands: list[Any] = [
        spawn_members(),
        *({"id": id_of(3), "command": name, "agentId": id_of(4)} for name in ("status", "kill", "logs")),
    ]
    for command in parse_commands(commands):
        assert refusal(Policy(), command)[0] == "not_allowed"


@pytest.mark.attack(39)
@pytest.mark.parametrize(
    "repository",
    [
        "https://git.example.org/other/app",
        "https://git.example.org/team/../other/app",
        "https://git.example.org/team/%2e%2e/other/app",
        "https://git.example.org/team/./app",
        "https://git.example.org/Team/app",
        "https://git.example.org:8443/team/app",
        "https://git.example.org./team/app",
        "https://user@git.example.org/team/app",
        "https://git.example.org@evil.example/team/app",
        "https://git.example.org.evil.example/team/app",
        "https://evil.example/git.example.org/team/app",
        "ssh://git.example.org/team/app",
        "git@git.example.org:team/app",
        "https://git.example.org/team",
        "https://git.example.org/team.git",
        "https://git.example.org//team/app",
        "https://git.example.org/team/app?x=/team/app",
        "https://git.example.org/other/app#/team/app",
    ],
)
def test_no_spelling_gets_around_the_globs(repository: str) -> None:
    assert refusal(policy(), spawn(repository))[0] in {"not_allowed", "invalid"}


@pytest.mark.attack(39)
@pytest.mark.parametrize(
    "repository",
    [
        "https://git.example.org/team/app",
        "https://GIT.example.org/team/app.git",
        "https://git.example.org:443/team/app/",
        "https://git.example.org/team/sub/app",
        "https://git.example.org/te%61m/app",
    ],
)
def test_every_spelling_of_an_allowed_place_is_allowed(repository: str) -> None:
    check_command(policy(), spawn(repository))


@pytest.mark.attack(50)
@pytest.mark.parametrize(
    "repository",
    [
        "ext::sh -c touch% /tmp/pwned",
        "EXT::sh",
        "fd::7",
        "file:///etc",
        "FILE:///etc",
        "/etc/passwd",
        "../app",
        "git://git.example.org/team/app",
        "http://git.example.org/team/app",
        "rsync://git.example.org/team/app",
    ],
)
def test_other_transports_are_not_allowed_whatever_their_case(repository: str) -> None:
    assert refusal(policy(), spawn(repository))[0] == "not_allowed"


@pytest.mark.attack(50)
def test_a_glob_for_everything_still_runs_no_transport_helper() -> None:
    assert refusal(policy(repositories=["**"]), spawn("ext::sh -c id"))[0] == "not_allowed"


@pytest.mark.attack(51)
@pytest.mark.parametrize(
    ("repository", "branch"),
    [
        ("--upload-pack=touch /tmp/pwned", "main"),
        ("-oProxyCommand=id@git.example.org:team/app", "main"),
        ("ssh://-oProxyCommand=id/team/app", "main"),
        ("ssh://-oProxyCommand=id@git.example.org/team/app", "main"),
        ("https://git.example.org/team/app", "-h"),
        ("https://git.example.org/team/app", "--upload-pack=id"),
        ("https://git.example.org/team/app", "@{-1}"),
        ("https://git.example.org/team/app", "a..b"),
        ("https://git.example.org/team/app", "main\n"),
        ("https://git.example.org/team/app", "refs/heads/../x"),
    ],
)
def test_options_in_disguise_are_invalid(repository: str, branch: str) -> None:
    assert refusal(policy(repositories=["**"]), spawn(repository, branch))[0] == "invalid"


@pytest.mark.parametrize(
    "changes",
    [
        {"commands": ["spwan"]},
        {"agent_types": ["boss"]},
        {"repositories": ["not a glob"]},
        {"agents": -1},
        {"agents": "4"},
        {"queued": True},
        {"rate_per_s": 0},
        {"commands_per_s": 0},
        {"store_mib": -1},
        {"comands": []},
    ],
    ids=lambda changes: f"{next(iter(changes.items()))}",
)
def test_a_policy_that_could_not_be_meant_is_refused_when_it_is_read(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        policy(**changes)


def test_the_operator_may_do_what_makes_sense_and_nothing_else() -> None:
    check_command(LOCAL_POLICY, spawn())
    check_command(LOCAL_POLICY, spawn("file:///srv/app"))
    assert refusal(LOCAL_POLICY, spawn("ext::sh"))[0] == "not_allowed"
    assert refusal(LOCAL_POLICY, spawn(branch="-h"))[0] == "invalid"
