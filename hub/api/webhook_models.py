"""What the requests about webhooks take and give."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from common.agent_state import Count
from common.wire import InstanceId, StrictModel, TolerantModel, Uuid7
from hub.api.models import ErrorView, Shown


class WebhookRequest(StrictModel):
    """Whom to tell: `url`, http(s) without user, query or fragment; of which `events` and `spokes` (empty: any)."""

    url: Annotated[
        str, Field(max_length=2048, examples=["https://ci.example.org/hook"], json_schema_extra={"format": "uri"})
    ]
    events: Annotated[list[Shown], Field(default_factory=list, max_length=9)]
    spokes: Annotated[list[InstanceId], Field(default_factory=list, max_length=1000)]


class RotateRequest(StrictModel):
    """For how many seconds former secrets sign beside the new one, none of them longer; 0 ends them at once."""

    overlap_s: Annotated[int, Field(ge=0, le=30 * 24 * 3600)] = 24 * 3600


class WebhookView(TolerantModel):
    """A webhook and how it goes; times are RFC 3339.

    After a rotation messages carry a signature by the former secret, too, until `formerSecretUntil`.

    `failing` since `failingSince`, it is tried again at `nextAttemptAt`; `disabled`, it was given up at `disabledAt`
    and is not, until it is resumed.
    """

    id: Uuid7
    url: str
    events: list[Shown]
    spokes: list[InstanceId]
    created_at: str
    state: Literal["active", "failing", "disabled"]
    told_up_to: str | None
    last_delivery_at: str | None
    last_attempt_at: str | None
    failing_since: str | None
    failures: Count
    next_attempt_at: str | None
    disabled_at: str | None
    last_error: ErrorView | None
    former_secret_until: str | None


class AddedWebhookView(WebhookView):
    """The webhook with a new secret; the `secret`, to be handed to the receiver, is shown only here."""

    secret: str


class WebhookList(TolerantModel):
    """All webhooks, the oldest first."""

    webhooks: list[WebhookView]


class WebhookTestView(TolerantModel):
    """Whether the receiver took a message just now, after how long, or why not."""

    id: Uuid7
    delivered: bool
    duration_ms: float | None
    error: ErrorView | None


class RemovedWebhookView(TolerantModel):
    """A webhook that is told nothing more."""

    id: Uuid7
    removed: bool
