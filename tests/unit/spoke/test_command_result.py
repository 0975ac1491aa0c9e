"""What a spoke answers to a command, and a REPLY that fits."""

from __future__ import annotations

import json
from typing import Any

import pytest

from common import strict_json
from common.commands import MAX_COMMANDS, parse_commands
from common.envelope import MAX_ITEMS_BYTES, Claims, CommandError, EnvelopeType, Items, Result, seal
from common.errors import COMMAND_RETRYABLE, CommandRefused
from common.jose import MAX_ENVELOPE_BYTES
from spoke.command_result import fit, refusal, refused_by_queue
from spoke.queue_terms import StepRefused
from tests.envelopes import NOW_S, SPOKE_KEY, agent_status, id_of, spawn


@pytest.mark.parametrize("code", ["conflict", "stale", "killed", "not_found", "queue_full", "draining"])
def test_every_code_of_the_queue_has_a_sentence_and_its_retryable(code: str) -> None:
    refused = refused_by_queue(StepRefused(code))
    assert refused.code == code
    assert refused.retryable == COMMAND_RETRYABLE[code]
    assert refused.message


def test_an_error_is_one_of_the_protocol() -> None:
    (command,) = parse_commands([spawn()])
    refused = refusal(command, CommandRefused("conflict", "why"))
    result = Result.model_validate_json(refused.encoded)
    assert (result.id, result.error) == (command.id, CommandError(code="conflict", detail="why", retryable=False))
    assert refused.outcome == "conflict"


# --- fitting


def encoded_fit(results: list[dict[str, Any]], *limit: int) -> list[bytes]:
    return list(fit([strict_json.encode(result) for result in results], *limit))


def of_agent(number: int, result: Any) -> dict[str, Any]:
    return {"id": id_of(number), "agent": agent_status(agentId=id_of(number), result=result)}


def test_what_fits_is_left_alone() -> None:
    results = [of_agent(number, {"summary": "x"}) for number in range(3)]
    assert [json.loads(item) for item in encoded_fit(results)] == results


def test_the_largest_results_go_first_and_only_as_many_as_must() -> None:
    sizes = [100, 5000, 200, 4000]
    results = [of_agent(number, {"summary": "x" * size}) for number, size in enumerate(sizes)]
    whole = sum(len(item) + 1 for item in encoded_fit(results))
    kept = [json.loads(item)["agent"]["result"] is not None for item in encoded_fit(results, whole - 4500)]
    assert kept == [True, False, True, True]
    kept = [json.loads(item)["agent"]["result"] is not None for item in encoded_fit(results, whole - 6000)]
    assert kept == [True, False, True, False]
    for limit, fits in ((whole, True), (whole - 1, False)):
        kept = [json.loads(item)["agent"]["result"] is not None for item in encoded_fit(results, limit)]
        assert kept == [True, fits, True, True]


def test_errors_and_logs_are_never_cut() -> None:
    results = [
        {"id": id_of(1), "error": {"code": "conflict", "detail": "d" * 3000, "retryable": False}},
        {"id": id_of(2), "log": {"offset": 0, "data": "x" * 3000, "nextOffset": 3000, "eof": True}},
        of_agent(3, {"summary": "x" * 10}),
    ]
    found = [json.loads(item) for item in encoded_fit(results, 100)]
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
    encoded = encoded_fit([largest(number) for number in range(MAX_COMMANDS)])
    assert sum(len(item) + 1 for item in encoded) <= MAX_ITEMS_BYTES
    claims = Claims(v=1, iss="a" * 63, aud="b" * 63, jti=id_of(1), iat=NOW_S, exp=NOW_S + 60)
    raw = seal(SPOKE_KEY, EnvelopeType.REPLY, claims, {"re": id_of(2)}, Items("results", encoded))
    assert len(raw) <= MAX_ENVELOPE_BYTES
