"""The spoke's local API as the command line uses it, from another process on the same machine."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

from common.command_line import Unreachable
from common.errors import PeerError

TIMEOUT_S: Final = 15
_ERROR: Final = 400


class Refused(PeerError):
    """The node answered with a problem; its code and sentence are passed on."""


@dataclass(frozen=True, slots=True)
class LocalClient:
    """Calls the node at `url` with its local token; `tls` believes its certificate."""

    url: str
    token: str
    tls: ssl.SSLContext | None = None

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        timeout_s: float = TIMEOUT_S,
    ) -> dict[str, Any]:
        """Return the JSON of an answer; raises `Refused` with the node's code, `Unreachable`."""
        headers = {"Authorization": f"Bearer {self.token}"}
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        try:
            async with (
                aiohttp.ClientSession(headers=headers, timeout=timeout) as session,
                session.request(method, self.url + path, params=query, json=body, ssl=self.tls or True) as response,
            ):
                document = await response.json(content_type=None)
                if not isinstance(document, dict):
                    raise ValueError("no spoke's answer")
                if response.status >= _ERROR:
                    raise Refused(str(document.get("detail")), code=str(document.get("code")))
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise Unreachable(f"no spoke answers at {self.url}; start it with: spoke serve") from error
        return document
