"""What the hub counts, for `GET /metrics` in the Prometheus text format. Labels are codes and peers, never ids."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The counters of one hub, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.envelopes_sent = Counter(
            "hub_envelopes_sent", "Envelopes sent, by answer", ["outcome"], registry=self.registry
        )
        self.envelopes_received = Counter(
            "hub_envelopes_received", "Envelopes received, by answer", ["outcome"], registry=self.registry
        )
        self.commands_enqueued = Counter(
            "hub_commands_enqueued", "Commands asked for, by outcome", ["outcome"], registry=self.registry
        )
        self.commands_settled = Counter(
            "hub_commands_settled", "Commands answered by a spoke, by outcome", ["outcome"], registry=self.registry
        )
        self.events = Counter("hub_events", "Agent transitions reported by spokes", registry=self.registry)
        self.request_seconds = Histogram(
            "hub_request_seconds", "Time to answer a request of the API", ["route"], registry=self.registry
        )
        self.outbox_pending = Gauge(
            "hub_outbox_pending", "Commands waiting, by spoke", ["spoke"], registry=self.registry
        )
        self.links = Gauge("hub_links", "Links that spokes have open", registry=self.registry)
        self.store_refuses_until = Gauge(
            "hub_store_lost_refuses_until_seconds",
            "Envelopes signed up to this time are refused, because the store was lost; 0 when it never was",
            registry=self.registry,
        )
        self.agents_pruned = Counter(
            "hub_agents_pruned", "Ended agents that the retention let go", registry=self.registry
        )
        self.webhook_messages = Counter(
            "hub_webhook_messages", "Messages sent to webhooks, by answer", ["outcome"], registry=self.registry
        )
        self.peers = Gauge("hub_peers", "Spokes, by state of the connection", ["state"], registry=self.registry)

    def render(self) -> bytes:
        """Return the text that Prometheus reads."""
        return generate_latest(self.registry)
