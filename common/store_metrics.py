"""What metrics say of a node's Valkey: whether it answers, keeps what it acknowledges, and was not lost."""

from __future__ import annotations

from redis.asyncio import Redis

from common.errors import LocalError, Unavailable
from common.metric_table import MetricTable
from common.store_mark import KnownStore
from common.valkey import check_durability, translated


class StoreMetrics:
    """Three gauges, read anew for each scrape."""

    def __init__(self, table: MetricTable, client: Redis, store: KnownStore) -> None:
        self._client = client
        self._store = store
        self._up = table.gauge("valkey_up", "1 while the node's Valkey answers")
        self._durable = table.gauge(
            "valkey_durable",
            "1 while Valkey is configured to keep what it acknowledges, and its last write to disk went well",
        )
        self._refuses_until = table.gauge(
            "store_lost_refuses_until_timestamp_seconds",
            "Envelopes signed up to this Unix time are refused, because the store was lost; 0 when it never was",
        )

    async def read(self) -> bool:
        """Set the gauges and return whether Valkey answers."""
        self._refuses_until.set(self._store.mark.refuses_until_s(self._store.skew_s))
        try:
            durable = await _is_durable(self._client)
        except Unavailable:
            self._up.set(0)
            self._durable.set(0)
            return False
        self._up.set(1)
        self._durable.set(durable)
        return True


async def _is_durable(client: Redis) -> bool:
    try:
        shortfalls = await check_durability(client, allow_data_loss=True)
    except LocalError:  # a replica
        return False
    with translated():
        persistence = await client.info("persistence")
    return not shortfalls and persistence.get("aof_last_write_status") == "ok"
