"""What a spoke decides about an envelope before and after the queue: steps, refusals, and a REPLY that fits."""

from __future__ import annotations

import json
from types import MappingProxyType
from typing import Any

import pytest

from common.commands import MAX_COMMANDS, SpawnFields, parse_commands
from common.envelope import MAX_ITEMS_BYTES, Claims, CommandError, EnvelopeType, Items, Result, seal
from common.errors import COMMAND_RETRYABLE, CommandRefused, Invalid
from common.ids import uuid7_time_ms
from common.jose import MAX_ENVELOPE_BYTES
from spoke.policy import LOCAL_POLICY, Policy
from spoke.queue_terms import KillStep, KnownStep, NoStep, ResumedStep, ResumeStep, SpawnStep, StatusStep, StepRefused
from spoke.router import Asked, Planned, Rules, error_result, fit, plan, refused_by_queue
from tests.envelopes import NOW_S, SPOKE_KEY, agent_status, id_of, spawn

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


@pytest.mark.parametrize("code", ["conflict", "stale", "killed", "not_found", "queue_full", "draining"])
def test_every_code_of_the_queue_has_a_sentence_and_its_retryable(code: str) -> None:
    refused = refused_by_queue(StepRefused(code))
    assert refused.code == code
    assert refused.retryable == COMMAND_RETRYABLE[code]
    assert refused.message


def test_an_error_is_one_of_the_protocol() -> None:
    result = Result.model_validate(error_result(id_of(1), "conflict", "why", retryable=False))
    assert result.error == CommandError(code="conflict", detail="why", retryable=False)


# --- fitting


def of_agent(number: int, result: Any) -> dict[str, Any]:
    return {"id": id_of(number), "agent": agent_status(agentId=id_of(number), result=result)}


def test_what_fits_is_left_alone() -> None:
    results = [of_agent(number, {"summary": "x"}) for number in range(3)]
    assert [json.loads(item) for item in fit(results)] == results


def test_the_largest_results_go_first_and_only_as_many_as_must() -> None:
    sizes = [100, 5000, 200, 4000]
    results = [of_agent(number, {"summary": "x" * size}) for number, size in enumerate(sizes)]
    whole = sum(len(item) + 1 for item in fit(results))
    kept = [json.loads(item)["agent"]["result"] is not None for item in fit(results, whole - 4500)]
    assert kept == [True, False, True, True]
    kept = [json.loads(item)["agent"]["result"] is not None for item in fit(results, whole - 6000)]
    assert kept == [True, False, True, False]


def test_errors_and_logs_are_never_cut() -> None:
    results = [
        error_result(id_of(1), "conflict", "d" * 3000, retryable=False),
        {"id": id_of(2), "log": {"offset": 0, "data": "x" * 3000, "nextOffset": 3000, "eof": True}},
        of_agent(3, {"summary": "x" * 10}),
    ]
    found = [json.loads(item) for item in fit(results, 100)]
    assert found[:2] == results[:2]
    assert found[2]["agent"]["result"] is None


def largest(number: int) -> dict[str, Any]:
    signals = [{"signal": f"SIG{name}", "at": "2026-11-22T08:00:00.000Z"} for name in ("TERM", "STOP", "KILL")]
    return {
        "id": id_of(number),
        "agent": agent_status(
            agentId=id_of(number), taskId="t" * 128, reason="attempts_exhausted", exitCode=-(2**31), attempt=10,
            receipt={"signals": signals, "survivors": 2**31}, result={"summary": "s" * 2000},
            queue={"position": 10_000, "waitingFor": "peer_quota"},
        ),
    }  # fmt: skip


def test_a_thousand_of_the_largest_answers_fit_one_envelope() -> None:
    encoded = fit([largest(number) for number in range(MAX_COMMANDS)])
    assert sum(len(item) + 1 for item in encoded) <= MAX_ITEMS_BYTES
    claims = Claims(v=1, iss="a" * 63, aud="b" * 63, jti=id_of(1), iat=NOW_S, exp=NOW_S + 60)
    raw = seal(SPOKE_KEY, EnvelopeType.REPLY, claims, {"re": id_of(2)}, Items("results", encoded))
    assert len(raw) <= MAX_ENVELOPE_BYTES


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
