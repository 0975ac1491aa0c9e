from __future__ import annotations

import json
from typing import Any

import pytest

from common.errors import LocalError
from spoke.explanation import Explanation, explain, parse_spawn
from spoke.policy import Policy
from tests.envelopes import hub_peer, spawn

RULES = {"commands": ["spawn"], "agent_types": ["worker"], "repositories": ["https://git.example.org/**"]}


def told(state: str = "active", asked: dict[str, Any] | None = None, **rules: Any) -> Explanation:
    policy = Policy.model_validate({**RULES, **rules})
    return explain(hub_peer(state=state), policy, parse_spawn(json.dumps(asked or spawn()).encode()))


def test_every_rule_is_named_and_nothing_is_refused() -> None:
    document = told().to_json()
    assert (document["outcome"], document["code"], document["detail"]) == ("accepted", None, None)
    assert document["granted"] == {"priority": 4, "timeout_s": 1800, "max_attempts": 2}
    assert [each["rule"] for each in document["rules"]] == [
        "connection", "policy.commands", "policy.agent_types", "policy.repositories", "policy.branches",
        "policy.skills", "policy.best_priority", "policy.max_timeout_s", "policy.max_attempts", "policy.queued",
        "policy.agents", "policy.rate_per_s", "policy.commands_per_s", "policy.store_mib",
    ]  # fmt: skip
    assert all(each["allows"] for each in document["rules"])
    assert {f"policy.{rule}" for rule in Policy.model_fields} <= {each["rule"] for each in document["rules"]}


def test_what_is_lowered_is_said() -> None:
    document = told(best_priority=6, max_timeout_s=60, max_attempts=1).to_json()
    assert document["granted"] == {"priority": 6, "timeout_s": 60, "max_attempts": 1}
    details = {each["rule"]: each["detail"] for each in document["rules"]}
    assert details["policy.best_priority"] == "priority 4 becomes 6"
    assert details["policy.max_timeout_s"] == "timeoutS 1800 becomes 60"


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "suspended": ({"state": "suspended"}, "not_allowed", "hub-eu is suspended"),
    "no spawns": ({"commands": ["status"]}, "not_allowed", "policy.commands"),
    "no worker": ({"agent_types": []}, "not_allowed", "policy.agent_types"),
    "no repository": ({"repositories": []}, "not_allowed", "policy.repositories"),
    "no branch": ({"branches": ["x"]}, "not_allowed", "policy.branches"),
    "no skill": ({"skills": ["x"]}, "not_allowed", "policy.skills"),
    "no queue": ({"queued": 0}, "quota_exceeded", "policy.queued"),
    "no such branch": (
        {"asked": spawn(context={**spawn()["context"], "branch": "-x"})},
        "invalid",
        "branch",
    ),
}


@pytest.mark.attack(39)
@pytest.mark.parametrize(("changes", "code", "detail"), REFUSED.values(), ids=REFUSED)
def test_the_first_refusal_is_what_the_peer_would_hear(changes: dict[str, Any], code: str, detail: str) -> None:
    document = told(**changes).to_json()
    assert (document["outcome"], document["code"], document["granted"]) == ("refused", code, None)
    assert document["detail"].startswith(detail)


def test_a_spawn_needs_neither_id_nor_command() -> None:
    bare = {name: value for name, value in spawn().items() if name not in {"id", "command"}}
    assert told(asked=bare).to_json() == told().to_json()


NO_SPAWN: dict[str, bytes] = {
    "no JSON": b"nope",
    "a list": b"[]",
    "no type": json.dumps({**spawn(), "agentType": "boss"}).encode(),
    "another member": json.dumps({**spawn(), "args": []}).encode(),
}


@pytest.mark.parametrize("raw", NO_SPAWN.values(), ids=NO_SPAWN)
def test_what_is_no_spawn_is_said_to_be_none(raw: bytes) -> None:
    with pytest.raises(LocalError, match="that is no spawn") as refused:
        parse_spawn(raw)
    assert refused.value.code == "malformed"
