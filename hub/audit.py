"""One canonical line and one count per envelope that reaches this hub, by whichever transport, taken or refused.

What was refused is counted for the audit, too; what was taken is written there by whoever took it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import structlog

from common.audit_file import Audit
from common.errors import BadSignature, HubspokeError
from hub.metrics import Metrics

_log: Final = structlog.get_logger("federation")


@contextmanager
def audited(metrics: Metrics, audit: Audit, event: str, **line: Any) -> Iterator[dict[str, Any]]:
    """Write the line `event` when the block ends; the block adds what it learned to the mapping that this yields."""
    started = time.monotonic()
    told: dict[str, Any] = {**line, "outcome": "accepted"}
    try:
        yield told
    except HubspokeError as error:
        told["outcome"] = error.code
        told["reason"] = error.reason if isinstance(error, BadSignature) else error.message
        audit.refuse(
            event.replace("received", "refused"),
            error.code,
            peer=error.sender,
            address=line.get("remote"),
            detail=told["reason"],
        )
        raise
    finally:
        metrics.envelopes_received.labels(told["outcome"]).inc()
        _log.info(event, **told, duration_ms=round((time.monotonic() - started) * 1000, 1))
