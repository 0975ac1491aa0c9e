"""What a spoke tells those who watch it: by numbers and by spans."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from common.telemetry import open_tracing
from common.tracing import NO_TRACING, Tracing
from spoke.metrics import Metrics
from spoke.node import Spoke


@dataclass(frozen=True, slots=True)
class Telling:
    """Both; without more, numbers that nobody reads and no spans."""

    metrics: Metrics = field(default_factory=Metrics)
    tracing: Tracing = NO_TRACING


@contextmanager
def open_telling(spoke: Spoke) -> Iterator[Telling]:
    """Yield them; raises `ConfigError`, `TelemetryMissing`."""
    metrics, section = Metrics(), spoke.settings.telemetry
    with open_tracing(section, os.environ, "hubspoke-spoke", spoke.me.instance, metrics.count_spans) as tracing:
        yield Telling(metrics, tracing)
