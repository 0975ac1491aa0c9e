"""How a form ends: back to a page, which says once what was done or why not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web
from pydantic import ValidationError

from common.errors import HubspokeError, LocalError
from common.http import invalid_request
from hub.dashboard.pages import SESSION


def done(request: web.Request, where: str, text: str) -> web.Response:
    """Go to a page that says `text`."""
    request[SESSION].notes.append(("done", text))
    return web.Response(status=303, headers={"Location": where})


@contextmanager
def refused_at(request: web.Request, where: str) -> Iterator[None]:
    """Go to the page `where` with the sentence of what the block raises."""
    try:
        yield
    except LocalError:
        raise
    except HubspokeError as error:
        request[SESSION].notes.append(("failed", error.message))
        raise web.HTTPSeeOther(where) from error
    except ValidationError as error:
        request[SESSION].notes.append(("failed", invalid_request(error).message))
        raise web.HTTPSeeOther(where) from error
