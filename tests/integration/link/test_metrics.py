"""What Prometheus reads of a live hub and a live spoke: all that is documented, and numbers that are true."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import aiohttp
from redis.asyncio import Redis

from common.embedded_valkey import EmbeddedValkey
from common.metric_table import MetricTable
from common.store_mark import KnownStore
from common.store_metrics import StoreMetrics
from common.valkey import connect
from tests.integration.link.pair import linked
from tests.spoke_node import eventually, tables

SCRIPT = runpy.run_path(str(Path(__file__).parents[3] / "docs" / "generate_metrics.py"))


async def scrape(url: str) -> str:
    async with aiohttp.ClientSession() as session, session.get(f"{url}/metrics") as response:
        assert response.status == 200
        return await response.text()


def value(text: str, sample: str) -> float:
    (found,) = re.findall(rf"(?m)^{re.escape(sample)} (\S+)$", text)
    return float(found)


def names(text: str) -> set[str]:
    """What is said to be there; a counter's creation time is a gauge beside it."""
    return {name for name, _ in re.findall(r"(?m)^# TYPE (\S+) (\S+)$", text) if not name.endswith("_created")}


async def test_both_nodes_have_every_metric_that_is_documented_and_they_are_true(tmp_path: Path) -> None:
    async with linked(tmp_path, tables(limits={"agents": 0})) as pair:
        agents = [await pair.spawn("print x") for _ in range(3)]
        for agent_id in agents:
            await pair.until(agent_id, "queued")
        assert (await pair.hub.call("GET", "/api/v1/agents/nobody"))[0] == 404
        assert (await pair.spoke.call("GET", "/agents/nobody/status"))[0] == 404

        hub, spoke = await scrape(pair.hub.url), await scrape(pair.spoke.url)
        assert names(hub) == {row.name for row in SCRIPT["rows_of_hub"]()}
        assert names(spoke) == {row.name for row in SCRIPT["rows_of_spoke"]()}

        assert value(hub, 'hubspoke_hub_agents{state="queued"}') == 3
        assert value(hub, 'hubspoke_hub_link_up{spoke="build-1"}') == 1
        assert value(hub, 'hubspoke_hub_outbox_pending{spoke="build-1"}') == 0
        assert value(hub, 'hubspoke_hub_outbox_head_age_seconds{spoke="build-1"}') == 0
        assert value(hub, 'hubspoke_hub_requests_refused_total{code="not_found"}') == 1
        assert value(hub, "hubspoke_hub_envelope_commands_sum") >= 3
        assert value(hub, "hubspoke_hub_valkey_durable") == 1

        assert value(spoke, 'hubspoke_spoke_agents{state="queued"}') == 3
        assert value(spoke, "hubspoke_spoke_queue_head_age_seconds") > 0
        assert value(spoke, 'hubspoke_spoke_link_up{hub="hub-eu"}') == 1
        assert value(spoke, 'hubspoke_spoke_requests_refused_total{code="not_found"}') == 1
        assert value(spoke, "hubspoke_spoke_envelope_commands_sum") >= 3
        assert value(spoke, 'hubspoke_spoke_accept_seconds_count{outcome="accepted"}') >= 1
        assert value(spoke, "hubspoke_spoke_valkey_durable") == 1

        async def all_told() -> bool:
            pending = value(await scrape(pair.spoke.url), 'hubspoke_spoke_events_pending{hub="hub-eu"}')
            return pending == 0

        await eventually(all_told, "the hub has taken all transitions")


async def test_commands_that_are_refused_are_counted_by_code_at_both_ends(tmp_path: Path) -> None:
    async with linked(tmp_path, tables(policy={"agent_types": ["worker"]})) as pair:
        for agent_type in ("reviewer", "reviewer", "worker"):
            await pair.spawn("print x", agentType=agent_type)

        async def counted() -> bool:
            hub, spoke = await scrape(pair.hub.url), await scrape(pair.spoke.url)
            refused = 'commands_refused_total{code="not_allowed"}'
            return f"hub_{refused} 2.0\n" in hub and f"spoke_{refused} 2.0\n" in spoke

        await eventually(counted, "two refusals at hub and spoke")


async def test_what_waits_for_a_spoke_that_is_away_grows_older(tmp_path: Path) -> None:
    async with linked(tmp_path) as pair:
        await pair.spoke.terminate()
        await pair.spawn("print x")

        async def waits() -> bool:
            hub = await scrape(pair.hub.url)
            return (
                value(hub, 'hubspoke_hub_outbox_pending{spoke="build-1"}') == 1
                and value(hub, 'hubspoke_hub_outbox_head_age_seconds{spoke="build-1"}') > 0
                and value(hub, 'hubspoke_hub_link_up{spoke="build-1"}') == 0
                and value(hub, 'hubspoke_hub_spoke_failures{spoke="build-1"}') > 0
            )

        await eventually(waits, "the command that waits is seen")


async def gauges(client: Redis) -> dict[str, float]:
    table = MetricTable("x_")
    await StoreMetrics(table, client, KnownStore()).read()
    text = table.render().decode()
    return {name: value(text, f"x_valkey_{name}") for name in ("up", "durable")}


async def test_a_store_that_may_lose_or_is_away_is_seen(tmp_path: Path) -> None:
    async with EmbeddedValkey(tmp_path) as server, connect(server.directory) as client:
        assert await gauges(client) == {"up": 1, "durable": 1}
        await client.config_set("appendfsync", "everysec")
        assert await gauges(client) == {"up": 1, "durable": 0}
        await client.config_set("appendfsync", "always")
        await client.replicaof("127.0.0.1", "1")  # nobody there; the role changes at once
        assert await gauges(client) == {"up": 1, "durable": 0}
    async with connect(tmp_path) as client:
        assert await gauges(client) == {"up": 0, "durable": 0}
