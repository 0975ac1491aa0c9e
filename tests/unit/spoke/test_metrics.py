from __future__ import annotations

from spoke.metrics import Metrics


def of(metrics: Metrics, cause: str) -> str:
    lines = metrics.table.render().decode().splitlines()
    (line,) = [line for line in lines if f'lost_total{{cause="{cause}"}}' in line]
    return line.rpartition(" ")[2]


def test_takeovers_are_those_of_the_store_and_go_on_where_it_was_lost() -> None:
    metrics = Metrics()
    metrics.saw_takeovers({"restart": 2})
    metrics.saw_takeovers({"restart": 2, "stood_still": 1})
    assert (of(metrics, "restart"), of(metrics, "stood_still")) == ("2.0", "1.0")
    metrics.saw_takeovers({})
    metrics.saw_takeovers({"restart": 1})
    assert (of(metrics, "restart"), of(metrics, "stood_still")) == ("3.0", "1.0")
