"""`/api/v1/webhooks`: who is told what happens, and how that goes. All of it for admins: a URL may be a secret."""

from __future__ import annotations

from typing import Any, Final

from aiohttp import web

from common.errors import HubspokeError
from common.http import json_response, read_json
from common.ids import rfc3339
from hub.api.agents import view_error
from hub.api.route import Route
from hub.api.webhook_models import (
    AddedWebhookView,
    RemovedWebhookView,
    RotateRequest,
    WebhookList,
    WebhookRequest,
    WebhookTestView,
    WebhookView,
)
from hub.webhook import Webhook, show_secret
from hub.webhook_progress import Progress
from hub.webhook_store import NoSuchWebhook
from hub.webhooks import Webhooks

_CREATED: Final = 201
_ALL: Final = "/api/v1/webhooks"
_ONE: Final = f"{_ALL}/{{id}}"


class WebhooksApi:
    """Handlers about webhooks."""

    def __init__(self, webhooks: Webhooks) -> None:
        self._webhooks = webhooks

    def routes(self) -> list[Route]:
        """Return the routes of webhooks."""
        return [
            Route(
                "POST",
                _ALL,
                self.add,
                "Have a URL told of changes from now on; the secret is shown only here",
                status=_CREATED,
                request=WebhookRequest,
                response=AddedWebhookView,
            ),
            Route("GET", _ALL, self.list, "List webhooks", response=WebhookList, scope="admin"),
            Route("GET", _ONE, self.show, "Show one webhook", response=WebhookView, scope="admin"),
            Route("DELETE", _ONE, self.remove, "Tell a webhook nothing more", response=RemovedWebhookView),
            Route("POST", f"{_ONE}/test", self.test, "Send a webhook a message now", response=WebhookTestView),
            Route(
                "POST",
                f"{_ONE}/resume",
                self.resume,
                "Try a webhook again at once, also when it was given up",
                response=WebhookView,
            ),
            Route(
                "POST",
                f"{_ONE}/rotate",
                self.rotate,
                "Give a webhook a new secret, shown only here; the former one signs beside it for a time",
                request=RotateRequest,
                response=AddedWebhookView,
                body_optional=True,
            ),
        ]

    async def add(self, request: web.Request) -> web.Response:
        """Add a webhook."""
        wanted = await read_json(request, WebhookRequest)
        webhook, secret = await self._webhooks.add(wanted.url, wanted.events, wanted.spokes)
        return json_response({**self._view(webhook, Progress()), "secret": show_secret(secret)}, _CREATED)

    async def list(self, _request: web.Request) -> web.Response:
        """List webhooks."""
        return json_response({"webhooks": [self._view(*found) for found in await self._webhooks.list()]})

    async def show(self, request: web.Request) -> web.Response:
        """Show one webhook."""
        return json_response(await self._look(request))

    async def _look(self, request: web.Request) -> dict[str, Any]:
        return self._view(*await self._webhooks.show(request.match_info["id"]))

    async def remove(self, request: web.Request) -> web.Response:
        """Remove a webhook."""
        return json_response({"id": self._webhooks.remove(request.match_info["id"]).webhook_id, "removed": True})

    async def test(self, request: web.Request) -> web.Response:
        """Send a message now; that it was not taken is an answer like any other."""
        webhook_id, duration_ms, error = request.match_info["id"], None, None
        try:
            duration_ms = round(await self._webhooks.test(webhook_id), 1)
        except NoSuchWebhook:
            raise
        except HubspokeError as failure:
            error = view_error(failure)
        return json_response({"id": webhook_id, "delivered": error is None, "durationMs": duration_ms, "error": error})

    async def resume(self, request: web.Request) -> web.Response:
        """Try again at once."""
        self._webhooks.resume(request.match_info["id"])
        return await self.show(request)

    async def rotate(self, request: web.Request) -> web.Response:
        """Make a new secret."""
        wanted = await read_json(request, RotateRequest) if request.can_read_body else RotateRequest()
        secret = self._webhooks.rotate(request.match_info["id"], wanted.overlap_s)
        return json_response({**await self._look(request), "secret": show_secret(secret)})

    def _view(self, webhook: Webhook, progress: Progress) -> dict[str, Any]:
        former_until_s = self._webhooks.former_until(webhook.webhook_id)
        return {**_view(webhook, progress), "formerSecretUntil": _time((former_until_s or 0) * 1000)}


def _view(webhook: Webhook, progress: Progress) -> dict[str, Any]:
    return {
        "id": webhook.webhook_id,
        "url": webhook.url,
        "events": list(webhook.events),
        "spokes": list(webhook.spokes),
        "createdAt": rfc3339(webhook.created_s * 1000),
        "state": progress.state,
        "toldUpTo": progress.cursor or None,
        "lastDeliveryAt": _time(progress.told_ms),
        "lastAttemptAt": _time(progress.tried_ms),
        "failingSince": _time(progress.failing_ms),
        "failures": progress.failures,
        "nextAttemptAt": _time(progress.next_ms),
        "disabledAt": _time(progress.disabled_ms),
        "lastError": progress.error,
    }


def _time(epoch_ms: int) -> str | None:
    return rfc3339(epoch_ms) if epoch_ms else None
