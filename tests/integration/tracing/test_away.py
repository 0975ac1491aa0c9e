"""What tracing must not do: fail a node, hold one up, fill its log, or cost anything where nobody asked for it."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import aiohttp
import pytest

from common.otel import FLUSH_S
from tests.integration.hub.hub_node import HubNode, run_process
from tests.integration.link.pair import linked
from tests.integration.tracing.collector import Collector
from tests.integration.tracing.conftest import hub_toml_of, toml_of
from tests.spoke_node import eventually

PROTOBUF = "/google/_upb/"
"""The library of protobuf: the exporter loads it, and nothing else here does."""


def maps_of(pid: int) -> str:
    return Path(f"/proc/{pid}/maps").read_text()


@pytest.fixture
def silent() -> Iterator[Collector]:
    """A collector that takes connections and never answers."""
    with closing(socket.create_server(("127.0.0.1", 0), backlog=64)) as server:
        yield Collector(f"http://127.0.0.1:{server.getsockname()[1]}")


@pytest.fixture
def gone() -> Collector:
    """A collector where nobody listens."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return Collector(f"http://127.0.0.1:{server.getsockname()[1]}")


@pytest.mark.slow
async def test_a_collector_that_refuses_is_one_line_in_the_log_and_one_when_it_is_back(
    tmp_path: Path, collector: Collector
) -> None:
    collector.status = 400
    async with linked(tmp_path, toml_of(None), hub_toml_of(collector)) as pair:
        for _ in range(3):
            collector.bodies.clear()
            await pair.until(await pair.spawn("print x"), "completed")
            await eventually(lambda: collector.bodies, "more spans were refused")
        collector.status = 200
        await pair.peer()
        await eventually(lambda: pair.hub.log_lines("telemetry.taken_again"), "spans are taken again")
        (line,) = pair.hub.log_lines("telemetry.not_taken")
        assert line["level"] == "warning"
        assert all(line.startswith("{") for line in pair.hub.log().splitlines()), "nothing is written past our log"
        text = await _metrics(pair.hub)
        assert 'hubspoke_hub_spans_total{outcome="lost"}' in text
        assert 'hubspoke_hub_spans_total{outcome="sent"}' in text


async def _metrics(hub: HubNode) -> str:
    async with aiohttp.ClientSession() as session, session.get(f"{hub.url}/metrics") as response:
        return await response.text()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["silent", "gone"])
async def test_a_collector_that_is_not_there_holds_nothing_up(
    tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    away: Collector = request.getfixturevalue(kind)
    async with linked(tmp_path, toml_of(away), hub_toml_of(away)) as pair:
        agents = [await pair.spawn("print x") for _ in range(5)]
        for agent_id in agents:
            assert (await pair.until(agent_id, "completed", "failed"))["status"] == "completed"
        lines = pair.hub.log_lines("telemetry.not_taken") + pair.spoke.log_lines("telemetry.not_taken")
        assert len(lines) <= 2
        for node in (pair.spoke, pair.hub):
            began = time.monotonic()
            assert await node.terminate() == 0
            assert time.monotonic() - began < FLUSH_S + 5.0
        await asyncio.gather(pair.hub.restart(), pair.spoke.restart())


@pytest.mark.slow
async def test_what_is_left_is_sent_at_the_end(
    tmp_path: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "3600000")
    async with linked(tmp_path, toml_of(collector), hub_toml_of(collector)) as pair:
        await pair.until(await pair.spawn("print x"), "completed")
        assert collector.spans == []
        await pair.spoke.terminate()
        await pair.hub.terminate()
        assert {span.service for span in collector.spans} == {"hubspoke-hub", "hubspoke-spoke"}
        assert collector.named("invoke_agent worker")
        await asyncio.gather(pair.hub.restart(), pair.spoke.restart())


@pytest.mark.slow
async def test_off_it_is_not_there_and_passes_on_what_came(tmp_path: Path, collector: Collector) -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    async with linked(tmp_path, toml_of(None)) as pair:
        for pid in (pair.hub.pid, pair.spoke.pid):
            assert PROTOBUF not in maps_of(pid)
        headers = {"Authorization": f"Bearer {pair.hub.token}", "traceparent": trace}
        context = {"repository": pair.repository.as_uri(), "branch": "main", "workItems": ["environment"]}
        body = {"spoke": pair.spoke.id, "taskId": "T-1", "agentType": "worker", "context": context}
        _, answer = await pair.hub.call("POST", "/api/v1/agents", body, headers)
        await pair.until(answer["agentId"], "completed")
        _, piece = await pair.hub.call("GET", f"/api/v1/agents/{answer['agentId']}/logs")
        assert f'"TRACEPARENT": "{trace}"' in piece["data"]
        untraced = await pair.spawn("environment")
        await pair.until(untraced, "completed")
        _, piece = await pair.hub.call("GET", f"/api/v1/agents/{untraced}/logs")
        assert "TRACEPARENT" not in piece["data"]
    with HubNode(tmp_path / "on", toml=hub_toml_of(collector)) as hub:
        assert PROTOBUF in maps_of(hub.pid)


def test_configured_and_not_installed_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "opentelemetry").mkdir()
    (tmp_path / "opentelemetry" / "__init__.py").write_text("raise ImportError('not here')\n")
    hub = HubNode(tmp_path)
    done = run_process(
        "--dir", str(hub.directory), "serve",
        PYTHONPATH=str(tmp_path), OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:4318",
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert "telemetry_missing" in done.stderr
    assert "hubspoke[otel]" in done.stderr


@pytest.mark.parametrize(
    "variables",
    [
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", "OTEL_BSP_MAX_QUEUE_SIZE": "0"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4317"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", "OTEL_TRACES_EXPORTER": "zipkin"},
        {"HUB_TELEMETRY__ENDPOINT": "http://user:pass@127.0.0.1:4318"},
    ],
    ids=["queue", "grpc", "no URL", "zipkin", "password"],
)
def test_what_cannot_be_done_is_one_line(tmp_path: Path, variables: dict[str, str]) -> None:
    hub = HubNode(tmp_path)
    done = run_process("--dir", str(hub.directory), "serve", **variables)
    assert done.returncode == 1, done
    assert done.stderr.count("\n") == 1
    assert "config" in done.stderr
    assert "Traceback" not in done.stderr
    assert "pass@" not in done.stderr


@pytest.mark.parametrize(
    "name", ["OTEL_EXPORTER_OTLP_TIMEOUT", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "OTEL_TRACES_SAMPLER"]
)
async def test_a_variable_that_is_ignored_is_told(
    tmp_path: Path, gone: Collector, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "soon")
    with HubNode(tmp_path, toml=hub_toml_of(gone)) as hub:
        assert hub.log_lines("telemetry.variable_ignored")
        assert all(line.startswith("{") for line in hub.log().splitlines())
