"""Forms as browsers send them: bounded, from a page of our own, and of the session that asks (no CSRF).

Two checks stand before every form. The browser says where a request came from, which also guards the login, where
there is no session yet; and every form of a session carries what only its own pages know.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from aiohttp import web

from common.errors import PeerError
from common.http import InvalidRequest, read_body
from hub.dashboard.sessions import Session

CSRF_FIELD: Final = "csrf"
_FORM_TYPE: Final = "application/x-www-form-urlencoded"
_MAX_FORM_BYTES: Final = 4 * 1024 * 1024
_MAX_FIELDS: Final = 64

Form = Mapping[str, str]


class ForeignForm(PeerError):
    """A form that did not come from a page of this hub, or from one of another login."""

    code = "foreign_form"
    http_status = 403


def check_same_origin(request: web.Request) -> None:
    """Raise `ForeignForm` when the browser says that another site sent this."""
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    # What sends neither is no browser, and has no cookie that it could be tricked with.
    says_ours = origin is None or urlsplit(origin).netloc == request.host
    if not (says_ours if site is None else site == "same-origin"):
        raise ForeignForm("this form came from another site; open the hub's own page and try again there")


async def read_form(request: web.Request) -> dict[str, str]:
    """Return the fields of a form; raises `InvalidRequest`, and what `read_body` does."""
    body = await read_body(request, _FORM_TYPE, _MAX_FORM_BYTES)
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=_MAX_FIELDS, errors="strict")
    except ValueError as error:
        raise InvalidRequest("this is no form, or one with too many fields") from error
    # A browser sends line ends as CR LF.
    return {name: value.replace("\r\n", "\n") for name, value in pairs}


def check_csrf(session: Session, form: Form) -> None:
    """Raise `ForeignForm` unless the form stood on a page of this session."""
    if not session.is_own(form.get(CSRF_FIELD, "")):
        raise ForeignForm("this form is of another login; go back, reload the page and try again")
