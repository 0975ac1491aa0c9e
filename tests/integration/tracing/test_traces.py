"""One trace from the admin's request to the end of the agent, through real processes and into a real collector."""

from __future__ import annotations

import json
import secrets
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.integration.link.pair import Pair
from tests.integration.spoke.repositories import git
from tests.integration.tracing.collector import Collector, Seen
from tests.integration.tracing.conftest import Opens
from tests.spoke_node import Go, eventually, run_in_process

API = "/api/v1/agents"


def new_trace() -> tuple[str, str]:
    """A trace id, and a traceparent of somebody's span in it."""
    trace_id = secrets.token_hex(16)
    return trace_id, f"00-{trace_id}-{secrets.token_hex(8)}-01"


async def ask(pair: Pair, path: str, body: Any, traceparent: str) -> dict[str, Any]:
    """POST to the hub within a span; returns what it answered."""
    headers = {"Authorization": f"Bearer {pair.hub.token}", "traceparent": traceparent}
    status, answer = await pair.hub.call("POST", path, body, headers)
    assert status in (200, 202), answer
    return dict(answer)


def wish(pair: Pair, *items: str, **members: Any) -> dict[str, Any]:
    context = {"repository": pair.repository.as_uri(), "branch": "main", "workItems": list(items)}
    return {
        "spoke": pair.spoke.id, "taskId": "T-1", "agentType": "worker", "context": context, "maxAttempts": 1, **members,
    }  # fmt: skip


async def spawn(pair: Pair, traceparent: str, *items: str, **members: Any) -> str:
    return str((await ask(pair, API, wish(pair, *items, **members), traceparent))["agentId"])


async def environment_of(pair: Pair, agent_id: str) -> dict[str, str]:
    """What the agent that was told `environment` printed."""
    _, piece = await pair.hub.call("GET", f"{API}/{agent_id}/logs")
    lines = [line for line in piece["data"].splitlines() if line.startswith("{")]
    found: dict[str, str] = json.loads(lines[-1])
    return found


def place(span: Seen) -> str:
    """The span as a traceparent that whoever is below it was given."""
    return f"00-{span.trace_id}-{span.span_id}-01"


async def chain(collector: Collector, trace_id: str) -> list[Seen]:
    """The spans from the request to the envelope on the spoke, each the child of the one before it."""
    spans = [await collector.one(name, trace_id) for name in (f"POST {API}", "send build-1", "process build-1")]
    assert [span.service for span in spans] == ["hubspoke-hub", "hubspoke-hub", "hubspoke-spoke"]
    assert [span.kind for span in spans] == ["server", "producer", "consumer"]
    assert [span.parent_id for span in spans[1:]] == [span.span_id for span in spans[:-1]]
    return spans


@pytest.mark.slow
async def test_one_trace_leads_from_the_request_to_the_end_of_the_agent(
    tmp_path: Path, collector: Collector, opens: Opens
) -> None:
    async with opens(tmp_path, collector) as pair:
        trace_id, traceparent = new_trace()
        agent_id = await spawn(pair, traceparent, "environment")
        await pair.until(agent_id, "completed")
        request, sent, processed = await chain(collector, trace_id)
        assert request.parent_id == traceparent.split("-")[2]
        assert request.attributes == {
            "http.request.method": "POST", "http.route": API, "http.response.status_code": 202,
        }  # fmt: skip
        envelope = {
            "messaging.system": "hubspoke",
            "messaging.destination.name": "build-1",
            "messaging.message.id": processed.attributes["messaging.message.id"],
            "hubspoke.commands": ["spawn"],
            "hubspoke.agent.ids": [agent_id],
        }
        by = {"messaging.operation.name": "send", "messaging.operation.type": "send"}
        assert sent.attributes == {**envelope, **by}
        by = {"messaging.operation.name": "process", "messaging.operation.type": "process"}
        assert processed.attributes == {**envelope, **by, "hubspoke.peer.id": "hub-eu"}

        prepared = await collector.one("prepare_agent worker", trace_id)
        run = await collector.one("invoke_agent worker", trace_id)
        assert prepared.parent_id == run.parent_id == processed.span_id
        assert run.began_ns < run.ended_ns
        about = {
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.agent.id": agent_id,
            "gen_ai.agent.name": "worker",
            "hubspoke.agent.attempt": 1,
            "hubspoke.task.id": "T-1",
            "hubspoke.peer.id": "hub-eu",
        }
        assert prepared.attributes == about
        assert run.attributes == {**about, "hubspoke.agent.status": "completed", "process.exit.code": 0}
        assert (await environment_of(pair, agent_id))["TRACEPARENT"] == place(run)
        assert not any(span.is_error for span in collector.spans)


@pytest.mark.slow
async def test_a_spoke_killed_amid_the_run_ends_the_same_span(pair: Pair, collector: Collector, tmp_path: Path) -> None:
    go = Go(tmp_path / "go")
    trace_id, traceparent = new_trace()
    agent_id = await spawn(pair, traceparent, "environment", f"wait {go}")
    await pair.until(agent_id, "running")
    _, _, processed = await chain(collector, trace_id)
    await collector.one("prepare_agent worker", trace_id)
    await pair.spoke.kill9()
    await pair.spoke.restart()
    go.now()
    agent = await pair.until(agent_id, "completed")
    run = await collector.one("invoke_agent worker", trace_id)
    assert run.parent_id == processed.span_id
    assert (await environment_of(pair, agent_id))["TRACEPARENT"] == place(run)
    assert run.attributes["hubspoke.agent.status"] == "completed"
    started = datetime.fromisoformat(agent["startedAt"]).timestamp()
    assert run.began_ns / 1e9 == pytest.approx(started, abs=0.001), "the start of the record, not of the adoption"


@pytest.mark.slow
async def test_a_resumed_agent_goes_on_in_the_trace_of_the_resume(pair: Pair, collector: Collector) -> None:
    first_id, traceparent = new_trace()
    agent_id = await spawn(pair, traceparent, "environment")
    await pair.until(agent_id, "completed")
    first = await collector.one("process build-1", first_id)
    again_id, traceparent = new_trace()
    await ask(pair, f"{API}/{agent_id}/resume", {"text": "go on"}, traceparent)
    run = await collector.one("invoke_agent worker", again_id)
    processed = await collector.one("process build-1", again_id)
    assert run.parent_id == processed.span_id
    assert run.links == [(first_id, first.span_id)]
    assert run.attributes["hubspoke.agent.attempt"] == 2
    assert len(collector.named("invoke_agent worker", first_id)) == 1
    await pair.until(agent_id, "completed")
    assert (await environment_of(pair, agent_id))["TRACEPARENT"] == place(run)


@pytest.mark.slow
async def test_a_refused_spawn_is_an_error_with_its_code_at_both_ends(pair: Pair, collector: Collector) -> None:
    trace_id, traceparent = new_trace()
    agent_id = await spawn(pair, traceparent, "print x", agentType="reviewer")
    await pair.hub.until_delivery(agent_id, "refused")
    _, sent, processed = await chain(collector, trace_id)
    for span in (sent, processed):
        assert span.is_error
        assert span.attributes["error.type"] == "not_allowed"
        assert span.events == [
            {"name": "hubspoke.command.refused", "hubspoke.command.id": agent_id, "error.type": "not_allowed"}
        ]
    assert not collector.named("prepare_agent reviewer")
    status, _ = await pair.hub.call("POST", API, {**wish(pair, "x"), "spoke": "nobody"}, _with(pair, traceparent))
    assert status == 404
    failed = await eventually(
        lambda: [span for span in collector.named(f"POST {API}", trace_id) if span.is_error], "the refused request"
    )
    assert failed[0].attributes["error.type"] == "not_found"
    assert failed[0].attributes["http.response.status_code"] == 404


def _with(pair: Pair, traceparent: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {pair.hub.token}", "traceparent": traceparent}


@pytest.mark.slow
async def test_a_kill_has_its_own_trace_and_ends_the_agents(pair: Pair, collector: Collector, tmp_path: Path) -> None:
    trace_id, traceparent = new_trace()
    agent_id = await spawn(pair, traceparent, f"wait {tmp_path / 'never'}")
    await pair.until(agent_id, "running")
    kill_id, traceparent = new_trace()
    await ask(pair, f"{API}/{agent_id}/kill", {"graceS": 0}, traceparent)
    await pair.until(agent_id, "killed")
    processed = await collector.one("process build-1", kill_id)
    assert processed.attributes["hubspoke.commands"] == ["kill"]
    assert processed.attributes["hubspoke.agent.ids"] == [agent_id]
    assert processed.parent_id == (await collector.one("send build-1", kill_id)).span_id
    run = await collector.one("invoke_agent worker", trace_id)
    assert run.is_error
    assert run.attributes["error.type"] == "killed_by_peer"
    assert run.attributes["hubspoke.agent.status"] == "killed"


@pytest.mark.slow
async def test_a_program_that_cannot_be_started_ends_the_preparation(pair: Pair, collector: Collector) -> None:
    trace_id, traceparent = new_trace()
    agent_id = await spawn(pair, traceparent, "x", agentType="tester")
    await pair.until(agent_id, "failed")
    prepared = await collector.one("prepare_agent tester", trace_id)
    assert prepared.is_error
    assert prepared.attributes["error.type"] == "spawn_failed"
    assert not collector.named("invoke_agent tester")


@pytest.mark.slow
async def test_a_mixed_envelope_begins_a_trace_and_is_linked_both_ways(pair: Pair, collector: Collector) -> None:
    await pair.spoke.terminate()
    traces = dict(new_trace() for _ in range(3))
    agents = {trace_id: await spawn(pair, traceparent, "environment") for trace_id, traceparent in traces.items()}
    untraced = await pair.spawn("print x")
    requests = {trace_id: await collector.one(f"POST {API}", trace_id) for trace_id in traces}
    await pair.spoke.restart()
    for agent_id in (*agents.values(), untraced):
        await pair.until(agent_id, "completed")

    def taken(trace_id: str = "") -> list[Seen]:
        """What was sent while the spoke was away is there, too, as an error."""
        return [span for span in collector.named("send build-1", trace_id) if not span.is_error]

    (envelope,) = await eventually(
        lambda: [span for span in taken() if len(span.links) > 1], "the span of the envelope that was taken"
    )
    assert envelope.parent_id == ""
    asked_by = {(trace_id, span.span_id) for trace_id, span in requests.items()}
    assert asked_by < set(envelope.links), "the spawn without a traceparent has a trace, too"
    assert envelope.attributes["messaging.batch.message_count"] == 4
    for trace_id, request in requests.items():
        (beside,) = taken(trace_id)
        assert (beside.parent_id, beside.links) == (request.span_id, [(envelope.trace_id, envelope.span_id)])
    processed = await collector.one("process build-1", envelope.trace_id)
    assert processed.parent_id == envelope.span_id
    runs = await eventually(
        lambda: len(found := collector.named("invoke_agent worker", envelope.trace_id)) == 4 and found, "four runs"
    )
    assert {run.parent_id for run in runs} == {processed.span_id}
    assert {run.attributes["gen_ai.agent.id"] for run in runs} == {*agents.values(), untraced}


@pytest.mark.slow
async def test_a_hub_killed_with_the_command_in_its_outbox_goes_on_in_the_trace(
    pair: Pair, collector: Collector, tmp_path: Path
) -> None:
    await pair.spoke.terminate()
    trace_id, traceparent = new_trace()
    agent_id = await spawn(pair, traceparent, "print x")
    request = await collector.one(f"POST {API}", trace_id)
    await pair.hub.kill9()
    await pair.hub.restart()
    # The hub has another port now than where the spoke joined.
    jwk = tmp_path / "hub.jwk"
    jwk.write_text(json.dumps(pair.hub.key.public.to_jwk()))
    run_in_process(pair.spoke.directory, "peer", "add", pair.hub.id, "--key", str(jwk), "--url", pair.hub.url)
    await pair.spoke.restart()
    await pair.until(agent_id, "completed")
    run = await collector.one("invoke_agent worker", trace_id)
    processed = await collector.one("process build-1", trace_id)
    (sent,) = [span for span in collector.named("send build-1", trace_id) if not span.is_error]
    assert (run.parent_id, processed.parent_id) == (processed.span_id, sent.span_id)
    assert sent.parent_id == request.span_id


@pytest.mark.slow
async def test_spawns_of_one_request_share_its_trace(pair: Pair, collector: Collector) -> None:
    trace_id, traceparent = new_trace()
    answer = await ask(pair, API, {"agents": [wish(pair, "print x") for _ in range(3)]}, traceparent)
    for agent in answer["agents"]:
        await pair.until(agent["agentId"], "completed")
    _, sent, processed = await chain(collector, trace_id)
    assert sent.attributes["messaging.batch.message_count"] == 3
    runs = await eventually(
        lambda: len(found := collector.named("invoke_agent worker", trace_id)) == 3 and found, "three runs"
    )
    assert {run.parent_id for run in runs} == {processed.span_id}
    assert len({run.span_id for run in runs}) == 3


@pytest.mark.slow
async def test_nothing_that_people_write_goes_to_the_collector(pair: Pair, collector: Collector) -> None:
    trace_id, traceparent = new_trace()
    secret = "s3cr3t-of-the-item"
    items = (f"print {secret}", f"commit {secret}", f'result {{"summary": "{secret}"}}')
    agent_id = await spawn(pair, traceparent, *items)
    await pair.until(agent_id, "completed")
    await pair.hub.call("GET", f"/api/v1/agents/{secret}?spoke={secret}")
    await collector.one("invoke_agent worker", trace_id)
    await eventually(
        lambda: [span for span in collector.named("GET /api/v1/agents/{id}") if span.is_error], "the request for it"
    )
    sent = b"".join(collector.bodies)
    head = git(pair.repository, "rev-parse", "HEAD").strip()
    for text in (secret, str(pair.repository), pair.hub.token, pair.spoke.token, head):
        assert text.encode() not in sent


@pytest.mark.slow
async def test_strangers_cause_no_spans(pair: Pair, collector: Collector) -> None:
    trace_id, traceparent = new_trace()
    status, _ = await pair.hub.call("POST", API, wish(pair, "x"), {"traceparent": traceparent})
    assert status == 401
    agent_id = await spawn(pair, new_trace()[1], "print x")
    await pair.until(agent_id, "completed")
    await eventually(lambda: collector.named("invoke_agent worker"), "later spans")
    assert trace_id not in {span.trace_id for span in collector.spans}


@pytest.mark.slow
async def test_the_command_line_and_the_coordinator_pass_on_what_they_are_within(
    pair: Pair, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace_id, traceparent = new_trace()
    monkeypatch.setenv("TRACEPARENT", traceparent)
    done = await pair.hub.hub(
        "spawn", "build-1", "--type", "worker", "--repo", pair.repository.as_uri(), "--branch", "main",
        "--item", "environment", "--wait",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (await chain(collector, trace_id))[0].parent_id == traceparent.split("-")[2]
    local_id, traceparent = new_trace()
    body = {key: value for key, value in wish(pair, "environment").items() if key not in ("spoke", "maxAttempts")}
    headers = {"Authorization": f"Bearer {pair.spoke.token}", "traceparent": traceparent}
    status, _ = await pair.spoke.call("POST", "/agents/spawn", body, headers)
    assert status == 201
    request = await collector.one("POST /agents/spawn", local_id)
    run = await collector.one("invoke_agent worker", local_id)
    assert (request.parent_id, run.parent_id) == (traceparent.split("-")[2], request.span_id)
    assert run.attributes["hubspoke.peer.id"] == "local"
