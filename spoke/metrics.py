"""What Prometheus is told about a spoke; every name with its meaning stands in this file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from common.metric_table import BATCHES, MetricTable

_PREFIX: Final = "hubspoke_spoke_"


class Metrics:
    """The metrics of one spoke; docs/metrics.md is made from this table."""

    def __init__(self) -> None:
        self.table = table = MetricTable(_PREFIX)
        self.agents = table.gauge("agents", "Agents on this spoke that have not ended: `queued`, `active`", "state")
        self.queue_head_age = table.gauge(
            "queue_head_age_seconds",
            "Of the agents that go next, one of each hub: how long the one has waited that waits longest; 0 for none",
        )
        self.envelopes_refused = table.counter(
            "envelopes_refused", "Envelopes that were refused whole, by code", "code"
        )
        self.commands_refused = table.counter(
            "commands_refused", "Commands of envelopes that were accepted which were refused, by code", "code"
        )
        self.envelope_commands = table.histogram(
            "envelope_commands", "Commands in an envelope that was accepted", buckets=BATCHES
        )
        self.accept_seconds = table.histogram(
            "accept_seconds", "From an envelope, whole, to its answer: `accepted`, or the code", "outcome"
        )
        self.requests_refused = table.counter(
            "requests_refused", "Requests of this machine that were answered with a problem, by its code", "code"
        )
        self.events_pending = table.gauge(
            "events_pending", "Agent transitions that a hub has not acknowledged, by hub", "hub"
        )
        self.envelope_events = table.histogram(
            "envelope_events", "Agent transitions in an envelope that a hub answered", buckets=BATCHES
        )
        self.link_up = table.gauge("link_up", "1 while there is a link with an active hub", "hub")
        self.machine_up = table.gauge("machine_up", "1 while another machine of this spoke has a link", "machine")
        self.leases_lost = table.counter(
            "leases_lost",
            "Agents that the node or a worker took over from one that did not keep them, since the store began: "
            "after a `restart` of it, or it `stood_still`",
            "cause",
        )
        self._takeovers: dict[str, int] = {}
        self.spans = table.counter("spans", "Spans for the collector: `sent`, or `lost` when it was away", "outcome")

    def saw_takeovers(self, counted: Mapping[str, int]) -> None:
        """Take in the counts of all workers; where the store was lost they begin anew, and the metric goes on."""
        for cause, count in counted.items():
            before = self._takeovers.get(cause, 0)
            self.leases_lost.labels(cause).inc(count - before if count >= before else count)
        self._takeovers = dict(counted)

    def count_spans(self, outcome: str, count: int) -> None:
        """Count spans that were handed over, or not."""
        self.spans.labels(outcome).inc(count)

    def refuse_request(self, code: str) -> None:
        """Count a request that was answered with a problem."""
        self.requests_refused.labels(code).inc()
