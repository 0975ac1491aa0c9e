"""The HTTP that hub and spoke have in common: bounded reading, problem documents, bearer tokens.

Every request body has a size and a time limit and is never inflated; every error becomes an RFC 9457 problem with a
stable `code` in one place, the middleware. Knows nothing of envelopes beyond their media type and size.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any, Final, TypeVar

import structlog
from aiohttp import StreamReader, web
from aiohttp.typedefs import Middleware
from pydantic import BaseModel, ValidationError

from common import strict_json
from common.errors import EnvelopeRejected, HubspokeError, LocalError, Malformed, PeerError, RateLimited, Unavailable
from common.jose import MAX_ENVELOPE_BYTES
from common.listener import awaiting_body
from common.problem_codes import CODES, PATH, UNKNOWN_TYPE, label_of

ENVELOPE_TYPE: Final = "application/jose"
JSON_TYPE: Final = "application/json"
PROBLEM_TYPE: Final = "application/problem+json"
BODY_TIMEOUT_S: Final = 10.0
_CODE: Final = web.ResponseKey("code", str)
_FEDERATION: Final = "/federation/"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Model = TypeVar("Model", bound=BaseModel)
_log: Final = structlog.get_logger("http")

_HTTP_CODES: Final = {
    HTTPStatus.NOT_FOUND: "not_found",
    HTTPStatus.METHOD_NOT_ALLOWED: "method_not_allowed",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "too_large",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "unsupported_media_type",
}


class InvalidRequest(PeerError):
    """A request of a local or admin API breaks its form; `errors` in the problem names each wrong field."""

    code = "invalid"


class Unauthorized(PeerError):
    """No token, or not the right one."""

    code = "unauthorized"
    http_status = 401


def problem(error: HubspokeError) -> web.Response:
    """Return the problem document of an error."""
    headers = {}
    if isinstance(error, Unavailable | RateLimited):
        headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    return problem_document(error.http_status, error.code, error.message, headers=headers, **error.extra)


def problem_document(
    status: int, code: str, detail: str, *, headers: dict[str, str] | None = None, **members: object
) -> web.Response:
    """Build an RFC 9457 problem with our `code`."""
    body = _encode_problem(status, code, detail, members)
    response = web.Response(body=body, status=status, content_type=PROBLEM_TYPE, headers=headers)
    response[_CODE] = code
    return response


def encode_problem(error: HubspokeError) -> bytes:
    """Return the problem of an error for a link, which has no headers: `retryAfterS` says what `Retry-After` would."""
    wait = {"retryAfterS": error.retry_after_s} if isinstance(error, Unavailable | RateLimited) else {}
    return _encode_problem(error.http_status, error.code, error.message, {**error.extra, **wait})


def _encode_problem(status: int, code: str, detail: str, members: Mapping[str, object]) -> bytes:
    phrase = HTTPStatus(status).phrase
    # Relative, and so the same on every node: it leads to the node that answered.
    kind = f"{PATH}/{code}" if code in CODES else UNKNOWN_TYPE
    return strict_json.encode(
        {"type": kind, "title": phrase, "status": status, "code": code, "detail": detail, **members}
    )


def refusals_counted(refused: Callable[[str], None]) -> Middleware:
    """Return the middleware that is told the code of every problem; not of the protocol's, whose envelopes are counted.

    It stands outside `problems`.
    """

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        code = response.get(_CODE)
        if code is not None and not request.path.startswith(_FEDERATION):
            refused(label_of(code))
        return response

    return middleware


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every error into its problem; one that nobody foresaw is logged whole and answered with `internal`.

    What is no HTTP/1 gets no answer: a request line without a version is HTTP/0.9, whose answers have no head, so that
    nothing we could say would be read as what it is (attack row 44).
    """
    if request.version.major != 1:
        _log.warning("connection.refused", detail="the request is not HTTP/1", remote=request.remote)
        request.protocol.force_close()
        return web.Response()
    try:
        return await handler(request)
    except HubspokeError as error:
        if isinstance(error, LocalError):
            _log.error("request.failed", route=route_of(request), code=error.code, reason=error.message)
        return problem(error)
    except web.HTTPException as error:
        if error.status < HTTPStatus.BAD_REQUEST:
            raise
        code = _HTTP_CODES.get(HTTPStatus(error.status), "invalid")
        allow = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
        return problem_document(error.status, code, f"{error.reason}: {request.method} here", headers=allow)
    except Exception as error:
        if isinstance(error, ConnectionError) and _has_hung_up(request):
            _log.info("request.abandoned", route=route_of(request), remote=request.remote)
            return web.Response()
        _log.exception("request.crashed", route=route_of(request))
        return problem_document(500, "internal", "the node failed; its log has the details")


def _has_hung_up(request: web.Request) -> bool:
    """Whether nobody is there to answer: a link or a stream learns of it when it writes its own head."""
    return request.transport is None or request.transport.is_closing()


async def read_body(request: web.Request, media_type: str, limit: int = MAX_ENVELOPE_BYTES) -> bytes:
    """Read a body of `media_type`, at most `limit` bytes, within `BODY_TIMEOUT_S`, and never inflate it.

    Raises `EnvelopeRejected` with `unsupported_media_type`, `too_large` or `too_slow` (attack rows 41 to 43), and
    `RateLimited` when too many bodies of the same address are waited for.
    """
    # Transfer-Encoding can name a compression, too.
    is_plain = "Content-Encoding" not in request.headers and _is_chunked_at_most(request)
    if request.content_type != media_type or not is_plain:
        raise EnvelopeRejected("unsupported_media_type", f"send {media_type} without Content-Encoding")
    if request.content_length is not None and request.content_length > limit:
        raise EnvelopeRejected("too_large", f"the body has at most {limit} bytes")
    try:
        with awaiting_body(request):
            async with asyncio.timeout(BODY_TIMEOUT_S):
                return await _read_bounded(request.content, limit)
    except TimeoutError as error:
        raise EnvelopeRejected("too_slow", f"the body did not come within {BODY_TIMEOUT_S:.0f} s") from error
    except (web.RequestPayloadError, ConnectionError) as error:
        raise Malformed("the body broke off, or its chunks are none") from error


async def _read_bounded(content: StreamReader, limit: int) -> bytes:
    body = bytearray()
    while chunk := await content.readany():
        body += chunk
        if len(body) > limit:
            raise EnvelopeRejected("too_large", f"the body has at most {limit} bytes")
    return bytes(body)


def _is_chunked_at_most(request: web.Request) -> bool:
    return request.headers.get("Transfer-Encoding", "chunked").strip().lower() == "chunked"


async def read_json(request: web.Request, model: type[Model]) -> Model:
    """Read a JSON body as `model`; raises `InvalidRequest` naming each wrong field."""
    body = await read_body(request, JSON_TYPE)
    try:
        return model.model_validate(strict_json.parse(body))
    except Malformed as error:
        raise InvalidRequest(error.message) from error
    except ValidationError as error:
        raise invalid_request(error) from error


def invalid_request(error: ValidationError) -> InvalidRequest:
    """Name each wrong field and its rule, without the values that were sent."""
    errors = [
        {"field": ".".join(str(step) for step in found["loc"]), "problem": found["msg"]}
        for found in error.errors(include_url=False, include_input=False, include_context=False)
    ]
    named = "; ".join(
        f"{found['field']}: {found['problem']}" if found["field"] else found["problem"] for found in errors
    )
    return InvalidRequest(named, extra={"errors": errors})


def json_response(value: Any, status: int = 200) -> web.Response:
    """Answer with JSON."""
    return web.Response(body=strict_json.encode(value), status=status, content_type=JSON_TYPE)


def bearer_of(request: web.Request) -> str:
    """Return the token that a request carries; raises `Unauthorized` when it carries none."""
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not given.strip():
        raise Unauthorized("this needs a token: send Authorization: Bearer TOKEN")
    return given.strip()


def check_bearer(request: web.Request, token: str) -> None:
    """Raise `Unauthorized` unless the request carries the token; as fast for every wrong one (attack row 58)."""
    # aiohttp hands out bytes that are no UTF-8 as surrogates.
    given = bearer_of(request).encode("utf-8", "surrogateescape")
    if not hmac.compare_digest(given, token.encode()):
        raise Unauthorized("this is not the token of this node")


def route_of(request: web.Request) -> str:
    """Return method and route for logs: never the path itself, into which people paste tokens (attack row 63)."""
    resource = request.match_info.route.resource
    return f"{request.method} {resource.canonical if resource else 'elsewhere'}"


def is_from_loopback(request: web.Request) -> bool:
    """Whether the request came from this machine itself."""
    try:
        return ipaddress.ip_address(request.remote or "").is_loopback
    except ValueError:
        return False
