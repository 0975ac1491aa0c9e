"""Envelopes over HTTP, as the sender: one POST, no redirects, nothing inflated, answers bounded in size and time.

A peer is not trusted to be kind: it may answer with a gigabyte, with gzip, never, or send us elsewhere (attack rows
48, 49). Translates what aiohttp raises into `Unavailable`, and problem documents into `EnvelopeNotTaken`.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import Any, Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from common import strict_json
from common.errors import HubspokeError, Malformed, Unavailable
from common.exchange import EnvelopeNotTaken
from common.http import ENVELOPE_TYPE
from common.inbox import BadReply
from common.jose import MAX_ENVELOPE_BYTES
from common.peer_url import check_peer_url, is_peer_address
from common.peers import Peer
from common.proxy import proxy_for
from common.tls import STRICT, Reach

ENVELOPES_PATH: Final = "/federation/v1/envelopes"
MAX_PROBLEM_BYTES: Final = 16 * 1024
_CONNECT_TIMEOUT_S: Final = 5
_TOTAL_TIMEOUT_S: Final = 30
_OK: Final = 200
_SERVER_ERROR: Final = 500
_MAX_CODE: Final = 64


class _PeerResolver(AbstractResolver):
    """Resolves names and drops the addresses where no peer may live, at the moment of connecting (attack row 48)."""

    def __init__(self) -> None:
        self._resolver = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        allowed = [entry for entry in found if is_peer_address(ipaddress.ip_address(entry["host"].partition("%")[0]))]
        if not allowed:
            raise OSError(f"{host} resolves to no address where a peer may live")
        return allowed

    async def close(self) -> None:
        """Nothing is open: the threads are the event loop's."""


async def _refuse_redirect(_session: object, _context: object, params: aiohttp.TraceRequestRedirectParams) -> None:
    params.response.close()
    raise aiohttp.ClientError("redirected")


def _no_redirects() -> aiohttp.TraceConfig:
    """Refuse redirects also where aiohttp leaves no choice, as in `ws_connect` (attack row 48)."""
    tracing = aiohttp.TraceConfig()
    tracing.on_request_redirect.append(_refuse_redirect)
    return tracing


def _only_within(reach: Reach) -> aiohttp.TraceConfig:
    """Refuse plain HTTP that would leave this machine, whoever makes the request."""

    async def check(_session: object, _context: object, params: aiohttp.TraceRequestStartParams) -> None:
        reach.check(str(params.url))

    tracing = aiohttp.TraceConfig()
    tracing.on_request_start.append(check)
    return tracing


def open_session(reach: Reach = STRICT) -> aiohttp.ClientSession:
    """Return a client session with our limits; close it when done. Raises `TlsError`."""
    return aiohttp.ClientSession(
        trace_configs=[_only_within(reach), _no_redirects()],
        connector=aiohttp.TCPConnector(resolver=_PeerResolver(), limit=0, limit_per_host=8, ssl=reach.context()),
        timeout=aiohttp.ClientTimeout(total=_TOTAL_TIMEOUT_S, sock_connect=_CONNECT_TIMEOUT_S),
        auto_decompress=False,
        headers={"Accept-Encoding": "identity", "User-Agent": "hubspoke"},
        cookie_jar=aiohttp.DummyCookieJar(),
    )


async def _read_bounded(response: aiohttp.ClientResponse, limit: int) -> bytes:
    if "Content-Encoding" in response.headers:
        raise BadReply("the peer's answer is compressed; it must not be")
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > limit:
            raise BadReply(f"the peer's answer is longer than {limit} bytes")
    return bytes(body)


def read_problem(body: bytes, status: int | None = None) -> HubspokeError:
    """Return what a peer's problem document says: `EnvelopeNotTaken`, or `Unavailable` when it failed itself (5xx).

    What is no problem document with a code of our form is `BadReply`: some proxy spoke, and nobody knows what the peer
    did. `status` is that of the response; without one (on a link) the document's own is taken.
    """
    members = _members_of(body)
    code = members.get("code")
    if status is None:
        told = members.get("status")
        status = told if type(told) is int else 0
    if not isinstance(code, str) or not code.isascii() or not code.isidentifier() or len(code) > _MAX_CODE:
        return BadReply(f"the peer's answer with status {status} is neither an envelope nor a problem")
    if status >= _SERVER_ERROR:
        return Unavailable(f"the peer failed with {status} {code}; it may have acted or not", code=code)
    return EnvelopeNotTaken(status, code, f"the peer refused with {status} {code}", members.get("now"))


def _members_of(body: bytes) -> dict[str, Any]:
    try:
        document: Any = strict_json.parse(body)
    except Malformed:
        return {}
    return document if isinstance(document, dict) else {}


async def fetch(session: aiohttp.ClientSession, method: str, url: str, raw: bytes | None = None) -> bytes:
    """Make one request and return the envelope that answers it.

    Raises `EnvelopeNotTaken` for a problem document, `BadReply` for anything else that is no envelope, `Unavailable`
    when the peer failed or there was no whole answer: then nobody knows what it did.
    """
    headers = {} if raw is None else {"Content-Type": ENVELOPE_TYPE}
    proxy = proxy_for(url)
    try:
        async with session.request(
            method, url, data=raw, headers=headers, allow_redirects=False, proxy=proxy
        ) as response:
            if response.status != _OK:
                raise read_problem(await _read_bounded(response, MAX_PROBLEM_BYTES), response.status)
            if response.content_type != ENVELOPE_TYPE:
                raise BadReply("the peer's answer is no envelope")
            return await _read_bounded(response, MAX_ENVELOPE_BYTES)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise cannot_reach(url, error) from error


def cannot_reach(url: str, error: Exception) -> Unavailable:
    """Return the error for a call that got no answer; a certificate that is not believed says why, and what to set."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        why = getattr(error.certificate_error, "verify_message", "") or "not valid"
        return Unavailable(f"cannot reach {url}: its certificate is not believed ({why}); see [tls] ca")
    return Unavailable(f"cannot reach {url}: {type(error).__name__}")


class PostTransport:
    """Delivers envelopes to a peer's URL."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def deliver(self, peer: Peer, raw: bytes) -> bytes:
        """POST one envelope; raises as `fetch` does, and `Unavailable` for a peer without URL."""
        if peer.url is None:
            raise Unavailable(f"{peer.instance} has no URL; it has to dial in")
        return await fetch(self._session, "POST", check_peer_url(peer.url) + ENVELOPES_PATH, raw)
