"""`/problems/CODE`: what a problem's `type` leads to. Open to everybody: it says nothing of the node."""

from __future__ import annotations

from typing import Annotated, Final

from aiohttp import web
from pydantic import Field

from common.errors import PeerError
from common.http import json_response
from common.problem_codes import CODES, PATH
from common.route import Route
from common.wire import TolerantModel

_CODE: Final = Annotated[str, Field(pattern="^[a-z_]{1,64}$", examples=["expired"])]


class NoSuchCode(PeerError):
    """No error of ours has that code."""

    code = "not_found"
    http_status = 404


class ProblemCodeView(TolerantModel):
    """A code: the statuses that it comes with over HTTP, what it means, what to do."""

    code: str
    statuses: list[int]
    meaning: str
    remedy: str


class ProblemCodeList(TolerantModel):
    """All codes."""

    problems: list[ProblemCodeView]


def problem_routes() -> list[Route]:
    """Return the two routes."""
    return [
        Route("GET", PATH, _list, "List what can go wrong", response=ProblemCodeList, public=True),
        Route(
            "GET",
            f"{PATH}/{{code}}",
            _show,
            "Show what a problem's code means and what to do",
            response=ProblemCodeView,
            identifier=_CODE,
            public=True,
        ),
    ]


def _view(code: str) -> dict[str, object]:
    known = CODES[code]
    return {"code": code, "statuses": list(known.statuses), "meaning": known.meaning, "remedy": known.remedy}


async def _list(_request: web.Request) -> web.Response:
    return json_response({"problems": [_view(code) for code in CODES]})


async def _show(request: web.Request) -> web.Response:
    code = request.match_info["code"]
    if code not in CODES:
        raise NoSuchCode(f"there is no such code; {PATH} lists all")
    return json_response(_view(code))
