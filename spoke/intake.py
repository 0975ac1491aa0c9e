"""What peers send to a spoke: COMMAND and ROTATE envelopes, admitted and answered. Both transports end here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import structlog

from common.audit_file import Audit
from common.clock import Clock
from common.envelope import CommandBody
from common.errors import BadSignature, HubspokeError, sent_by
from common.inbox import Inbox
from common.metric_table import timed
from spoke.metrics import Metrics
from spoke.rotating import Rotating
from spoke.router import Router

_log: Final = structlog.get_logger("envelope")


class Intake:
    """Takes envelopes of hubs; `metrics` count what was taken and what was not."""

    def __init__(
        self,
        inbox: Inbox,
        router: Router,
        rotating: Rotating,
        clock: Clock,
        metrics: Metrics,
        audit: Audit,
    ) -> None:
        self._audit = audit
        self._inbox = inbox
        self._router = router
        self._rotating = rotating
        self._clock = clock
        self._metrics = metrics

    async def take(self, raw: bytes) -> bytes:
        """Return the REPLY to a received envelope; raises `EnvelopeRejected`, `RateLimited`, `Unavailable`."""
        with timed(self._metrics.accept_seconds):
            admitted = self._inbox.admit(raw, self._clock.now_ms() / 1000)
            is_command = isinstance(admitted.envelope.body, CommandBody)
            with sent_by(admitted.peer.instance):
                reply = await (self._router.answer if is_command else self._rotating.answer)(admitted)
        if is_command:
            self._metrics.envelope_commands.observe(len(admitted.envelope.commands))
        return reply

    @contextmanager
    def audited(self, remote: str | None, transport: str = "post") -> Iterator[None]:
        """Write one line about a refusal in the block, and count it; what is taken has lines of its own."""
        try:
            yield
        except HubspokeError as error:
            reason = error.reason if isinstance(error, BadSignature) else error.message
            _log.warning("envelope.refused", code=error.code, reason=reason, remote=remote, transport=transport)
            self._metrics.envelopes_refused.labels(error.code).inc()
            self._audit.refuse("envelope.refused", error.code, peer=error.sender, address=remote, detail=reason)
            raise
