"""What the hub counts, for `GET /metrics` in the Prometheus text format. Labels are codes and peers, never ids."""

from __future__ import annotations

from common.metric_table import BATCHES, MetricTable


class Metrics:
    """The metrics of one hub; docs/metrics.md is made from this table."""

    def __init__(self) -> None:
        self.table = table = MetricTable("hubspoke_hub_")
        self.envelopes_sent = table.counter(
            "envelopes_sent", "Envelopes sent to spokes, by answer: `answered`, or the code", "outcome"
        )
        self.envelope_commands = table.histogram(
            "envelope_commands", "Commands in an envelope that a spoke answered", buckets=BATCHES
        )
        self.delivery_seconds = table.histogram("delivery_seconds", "From sending an envelope to recording its answer")
        self.envelopes_received = table.counter(
            "envelopes_received", "Envelopes of spokes, by answer: `accepted`, or the code of the refusal", "outcome"
        )
        self.envelope_events = table.histogram(
            "envelope_events", "Agent transitions in an envelope of a spoke", buckets=BATCHES
        )
        self.accept_seconds = table.histogram(
            "accept_seconds", "From an envelope of a spoke, whole, to its answer: `accepted`, or the code", "outcome"
        )
        self.commands_enqueued = table.counter(
            "commands_enqueued", "Spawns that were asked for, by outcome: `created`, `same`, or the code", "outcome"
        )
        self.commands_settled = table.counter("commands_settled", "Commands answered by a spoke, by outcome", "outcome")
        self.commands_refused = table.counter(
            "commands_refused", "Commands that a spoke took in and refused, for now or for good, by code", "code"
        )
        self.events = table.counter("events", "Agent transitions reported by spokes")
        self.request_seconds = table.histogram("request_seconds", "Time to answer a request of the API", "route")
        self.requests_refused = table.counter(
            "requests_refused", "Requests of the API that were answered with a problem, by its code", "code"
        )
        self.agents = table.gauge("agents", "Agents that this hub knows, by what is shown of them", "state")
        self.agents_pruned = table.counter("agents_pruned", "Ended agents that the retention let go")
        self.outbox_pending = table.gauge("outbox_pending", "Commands waiting, by spoke", "spoke")
        self.outbox_head_age = table.gauge(
            "outbox_head_age_seconds",
            "How long the command that goes next has waited, by spoke; 0 when none waits",
            "spoke",
        )
        self.peers = table.gauge("peers", "Spokes, by state of the connection", "state")
        self.links = table.gauge("links", "Links that spokes have open")
        self.link_up = table.gauge("link_up", "1 while an active spoke has a link open", "spoke")
        self.spoke_failures = table.gauge(
            "spoke_failures", "Envelopes in a row that an active spoke did not answer", "spoke"
        )
        self.webhook_messages = table.counter("webhook_messages", "Messages sent to webhooks, by answer", "outcome")
        self.spans = table.counter("spans", "Spans for the collector: `sent`, or `lost` when it was away", "outcome")

    def count_spans(self, outcome: str, count: int) -> None:
        """Count spans that were handed over, or not."""
        self.spans.labels(outcome).inc(count)

    def refuse_request(self, code: str) -> None:
        """Count a request that was answered with a problem."""
        self.requests_refused.labels(code).inc()

    def render(self) -> bytes:
        """Return the text that Prometheus reads."""
        return self.table.render()
