"""A table of metrics: what is observed, under which name and outcome."""

from __future__ import annotations

import pytest

from common.errors import PeerError
from common.metric_table import MetricTable, Row, timed


def test_a_row_has_the_name_that_is_asked_for() -> None:
    table = MetricTable("node_")
    table.counter("seen", "What was seen", "code").labels("x").inc()
    table.gauge("waiting", "What waits").set(2)
    table.histogram("size", "How large", buckets=(1, 10)).observe(5)
    assert table.rows == [
        Row("node_seen_total", "counter", "What was seen", ("code",)),
        Row("node_waiting", "gauge", "What waits", ()),
        Row("node_size", "histogram", "How large", ()),
    ]
    text = table.render().decode()
    for sample in ('node_seen_total{code="x"} 1.0', "node_waiting 2.0", 'node_size_bucket{le="10.0"} 1.0'):
        assert sample in text


@pytest.mark.parametrize(
    ("raised", "outcome"), [(None, "accepted"), (PeerError("no", code="stale"), "stale"), (KeyError("x"), "internal")]
)
def test_a_block_is_timed_by_its_outcome(raised: Exception | None, outcome: str) -> None:
    table = MetricTable("node_")
    histogram = table.histogram("seconds", "How long", "outcome")

    def run() -> None:
        with timed(histogram):
            if raised is not None:
                raise raised

    if raised is None:
        run()
    else:
        with pytest.raises(type(raised)):
            run()
    assert f'node_seconds_count{{outcome="{outcome}"}} 1.0' in table.render().decode()
