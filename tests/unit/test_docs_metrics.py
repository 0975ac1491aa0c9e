"""docs/metrics.md is what the tables say; dashboard and alert rules ask only for metrics and labels that there are."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

DOCS: Final = Path(__file__).parents[2] / "docs"
SCRIPT: Final = runpy.run_path(str(DOCS / "generate_metrics.py"))
ROWS: Final = [*SCRIPT["rows_of_hub"](), *SCRIPT["rows_of_spoke"]()]
OF_HISTOGRAMS: Final = ("_bucket", "_sum", "_count")
ADDED: Final = {"instance", "le"}
"""Labels that Prometheus and histograms add."""
NAMES: Final = {
    row.name + ending: {*row.labels, *ADDED}
    for row in ROWS
    for ending in (OF_HISTOGRAMS if row.kind == "histogram" else ("",))
}
RULES: Final = yaml.safe_load((DOCS / "alerts.yml").read_text())["groups"][0]["rules"]
DASHBOARD: Final = json.loads((DOCS / "grafana.json").read_text())
PANELS: Final = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS: Final = [rule["expr"] for rule in RULES] + [
    target["expr"] for panel in PANELS for target in panel["targets"]
]


def _names_in(expression: str) -> set[str]:
    return set(re.findall(r"\bhubspoke_\w+", expression))


def test_the_page_is_what_the_tables_say() -> None:
    assert (DOCS / "metrics.md").read_text() == SCRIPT["render"](), "run: python docs/generate_metrics.py"


def test_every_name_is_there_once_and_says_what_it_means() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)
    assert all(row.meaning for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_name_is_as_prometheus_wants_it(row: Any) -> None:
    """https://prometheus.io/docs/practices/naming/: what counts ends so, times are in seconds and say so."""
    assert re.fullmatch(r"hubspoke_(hub|spoke)(_[a-z]+)+", row.name)
    assert row.name.endswith("_total") is (row.kind == "counter")
    assert not re.search(r"_(ms|milliseconds|minutes|hours|count|sum|bucket|gauge|counter)(_|$)", row.name)
    assert not {"le", "quantile", "instance", "job"} & set(row.labels)
    if row.name.endswith("_seconds") and "until" in row.name:
        assert row.name.endswith("_timestamp_seconds")


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_asks_for_what_there_is(expression: str) -> None:
    names = _names_in(expression)
    assert names
    assert names <= set(NAMES)
    labels = set.intersection(*(NAMES[name] for name in names))
    asked = {label.strip() for group in re.findall(r"\bby \(([^)]*)\)", expression) for label in group.split(",")}
    for name, matchers in re.findall(r"(hubspoke_\w+)\{([^}]*)\}", expression):
        assert set(re.findall(r"(\w+)!?=~?\"", matchers)) <= NAMES[name]
    assert asked <= labels
    for opening, closing in ("()", "[]", "{}"):
        assert expression.count(opening) == expression.count(closing)


def test_every_metric_is_on_the_dashboard_or_in_a_rule() -> None:
    used = {name for expression in EXPRESSIONS for name in _names_in(expression)}
    base = {re.sub(r"_(bucket|sum|count)$", "", name) for name in used}
    # The page of the hub shows these; `link_up` says more than a count of links.
    left_out = {"hubspoke_hub_agents_pruned_total", "hubspoke_hub_links", "hubspoke_hub_peers"}
    assert {row.name for row in ROWS} - base - used == left_out


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_a_rule_says_what_is_wrong_and_what_to_do(rule: dict[str, Any]) -> None:
    assert set(rule) - {"for"} == {"alert", "expr", "labels", "annotations"}
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert set(rule["annotations"]) == {"summary", "action"}
    known = set.union(*(NAMES[name] for name in _names_in(rule["expr"])))
    for text in rule["annotations"].values():
        assert set(re.findall(r"\$labels\.(\w+)", text)) <= known
    assert re.fullmatch(r"\d+[smh]", rule.get("for", "0s"))


def test_the_panels_do_not_lie_on_each_other() -> None:
    cells = [
        (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
