"""What a spoke decides about the commands of an envelope before its queue is asked."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import pytest

from common.commands import SpawnFields, parse_commands
from common.errors import CommandRefused, Invalid
from common.ids import uuid7_time_ms
from spoke.planning import Asked, Planned, Rules, plan
from spoke.policy import LOCAL_POLICY, Policy
from spoke.queue_terms import (
    FreezeStep,
    KillStep,
    KnownStep,
    NoStep,
    ResumedStep,
    ResumeStep,
    SpawnStep,
    StatusStep,
    ThawStep,
)
from tests.envelopes import NOW_S, id_of, spawn

ALL = LOCAL_POLICY
OLDEST_MS = (NOW_S - 30 * 86_400) * 1000


def offer(spawn: SpawnFields) -> None:
    if "unknown" in spawn.context.skills:
        raise Invalid("there is no such skill")


def planned(
    *commands: dict[str, Any], policy: Policy = ALL, oldest_ms: int = OLDEST_MS, asked: Asked = MappingProxyType({})
) -> list[Planned]:
    return plan(parse_commands(list(commands)), Rules(policy, oldest_ms, uuid7_time_ms, offer), asked)


def about(command: str, number: int = 9, **members: Any) -> dict[str, Any]:
    return {"id": id_of(number), "command": command, "agentId": id_of(1), **members}


def test_each_command_becomes_its_step_in_order() -> None:
    steps = [each.step for each in planned(about("status"), spawn(), about("logs", 8), about("kill", 7, graceS=3))]
    assert steps[0] == steps[2] == StatusStep(id_of(1))
    assert isinstance(steps[1], SpawnStep)
    assert (steps[1].index, steps[1].spawn.id) == (1, id_of(2))
    assert steps[3] == KillStep(id_of(1), 3, "killed_by_peer", None)


def test_a_kill_carries_its_reason_and_the_grace_that_was_asked_for() -> None:
    (each,) = planned(about("kill", reason="superseded"))
    assert each.step == KillStep(id_of(1), 10, "killed_by_peer", "superseded")


def test_a_freeze_kills_only_where_it_says_so_and_a_thaw_is_planned_under_its_id() -> None:
    every = Policy(commands=["freeze", "thaw"])
    freeze = {"id": id_of(3), "command": "freeze", "reason": "leaked"}
    steps = [
        each.step
        for each in planned(freeze, {**freeze, "killAgents": True}, {"id": id_of(4), "command": "thaw"}, policy=every)
    ]
    kill = KillStep("", 10, "killed_by_peer", "leaked")
    assert steps == [FreezeStep(id_of(3)), FreezeStep(id_of(3), kill), ThawStep(id_of(4))]


def test_of_the_patches_in_one_envelope_the_first_are_taken() -> None:
    each = planned(about("diff"), about("status"), *(about("diff") for _ in range(8)))
    assert [one.refused and one.refused.code for one in each] == [*[None] * 9, "quota_exceeded"]
    assert [type(one.step) for one in each] == [*[StatusStep] * 9, NoStep]


def test_what_was_refused_keeps_its_place_and_reaches_no_queue() -> None:
    refused, allowed = planned(about("kill"), about("status"), policy=Policy(commands=["status"]))
    assert isinstance(refused.step, NoStep)
    assert refused.refused is not None
    assert refused.refused.code == "not_allowed"
    assert (allowed.step, allowed.refused) == (StatusStep(id_of(1)), None)


@pytest.mark.parametrize(("policy", "oldest_ms", "code"), [(Policy(), OLDEST_MS, "not_allowed"), (ALL, 2**50, "stale")])
def test_a_refused_spawn_is_looked_up_and_never_queued(policy: Policy, oldest_ms: int, code: str) -> None:
    (each,) = planned(spawn(), policy=policy, oldest_ms=oldest_ms)
    assert isinstance(each.step, KnownStep)
    assert (each.refused and each.refused.code) == code


@pytest.mark.attack(24)
@pytest.mark.parametrize(("oldest_ms", "code"), [(NOW_S * 1000, None), (NOW_S * 1000 + 1, "stale")])
def test_an_id_may_be_as_old_as_the_memory_and_no_older(oldest_ms: int, code: str | None) -> None:
    (each,) = planned(spawn(), oldest_ms=oldest_ms)
    assert (each.refused and each.refused.code) == code


def test_the_age_of_an_id_matters_for_spawns_only() -> None:
    (each,) = planned(about("status"), oldest_ms=NOW_S * 1000 + 1)
    assert each.refused is None


def test_a_spawn_that_could_not_be_started_as_asked_is_refused_alone() -> None:
    context = {**spawn()["context"], "skills": ["unknown"]}
    refused, fine = planned(spawn(id=id_of(1), context=context), spawn())
    assert refused.refused is not None
    assert (refused.refused.code, type(refused.step)) == ("invalid", KnownStep)
    assert (fine.refused, type(fine.step)) == (None, SpawnStep)


# --- resume

WITH_UNKNOWN_SKILL = spawn(id=id_of(1), context={**spawn()["context"], "skills": ["unknown"]})
ASKED = parse_commands([spawn(id=id_of(1))])[0]


def steps_of_resume(policy: Policy = ALL, asked: Any = ASKED, oldest_ms: int = OLDEST_MS) -> Planned:
    (each,) = planned(about("resume", text="go on"), policy=policy, asked={id_of(1): asked}, oldest_ms=oldest_ms)
    return each


def test_a_resume_is_planned_with_its_place() -> None:
    step = steps_of_resume().step
    assert isinstance(step, ResumeStep)
    assert (step.index, step.resume.id, step.resume.agent_id) == (0, id_of(9), id_of(1))


RESUME_REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "the command": ({"policy": Policy(commands=["spawn"])}, "not_allowed"),
    "the repository, by now": ({"policy": Policy(commands=["resume"], agent_types=["worker"])}, "not_allowed"),
    "an old id": ({"oldest_ms": 2**50}, "stale"),
    "no such agent": ({"asked": CommandRefused("not_found", "there is none")}, "not_found"),
    "a skill that is gone": ({"asked": parse_commands([WITH_UNKNOWN_SKILL])[0]}, "invalid"),
}  # fmt: skip


@pytest.mark.attack(39)
@pytest.mark.parametrize(("changes", "code"), RESUME_REFUSALS.values(), ids=RESUME_REFUSALS)
def test_what_may_not_be_spawned_now_is_not_resumed_unless_it_was_before(changes: dict[str, Any], code: str) -> None:
    each = steps_of_resume(**changes)
    assert isinstance(each.step, ResumedStep)
    assert each.refused is not None
    assert each.refused.code == code


def test_the_rules_are_asked_once_about_spawns_that_differ_in_nothing_they_look_at() -> None:
    seen: list[str] = []

    def offer_some(spawn: SpawnFields) -> None:
        seen.append(spawn.task_id)
        offer(spawn)

    def kind(number: int, **context: Any) -> dict[str, Any]:
        return spawn(id=id_of(number), taskId=f"T-{number}", context={**spawn()["context"], **context})

    commands = parse_commands([
        kind(1), kind(2), kind(3, skills=["unknown"]), kind(4, skills=["unknown"]), kind(5, branch="other"),
        kind(6, workItems=["something else"]), kind(7, repository="https://git.example.org/another"),
        {**kind(8), "agentType": "tester"}, kind(9, skills=[]),
    ])  # fmt: skip
    decided = plan(commands, Rules(ALL, OLDEST_MS, uuid7_time_ms, offer_some), {})
    assert seen == ["T-1", "T-3", "T-5", "T-7", "T-8", "T-9"]
    assert [each.refused and each.refused.code for each in decided] == [None, None, "invalid", "invalid", *[None] * 5]
    assert [each.command for each in decided] == commands


@pytest.mark.parametrize("kind", ["agentType", "repository", "branch", "skills"])
def test_what_is_refused_of_one_kind_is_allowed_of_another(kind: str) -> None:
    other = {"agentType": "tester"} if kind == "agentType" else {}
    changed = {"repository": "https://git.example.com/a", "branch": "other", "skills": ["rust"]}
    context = {**spawn()["context"], **({kind: changed[kind]} if kind in changed else {})}
    policy = Policy(
        commands=["spawn"], agent_types=["worker"], repositories=["https://git.example.org/**"], branches=["main"],
        skills=["python"],
    )  # fmt: skip
    decided = planned(
        spawn(id=id_of(1)), spawn(id=id_of(2), context=context, **other), spawn(id=id_of(3)), policy=policy
    )
    assert [each.refused and each.refused.code for each in decided] == [None, "not_allowed", None]
