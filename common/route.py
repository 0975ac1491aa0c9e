"""One table of routes, from which application and OpenAPI document are both made: they cannot disagree."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from aiohttp import web
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from common.http import invalid_request
from common.wire import Uuid7


class Query(BaseModel):
    """The parameters of a query string: text becomes numbers and booleans, unknown ones are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel, hide_input_in_errors=True)


Q = TypeVar("Q", bound=Query)


@dataclass(frozen=True, slots=True)
class Route:
    """What a route takes and answers; `media_type` is that of the answer."""

    method: str
    path: str
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    summary: str
    status: int = 200
    query: type[Query] | None = None
    request: type[BaseModel] | None = None
    response: type[BaseModel] | None = None
    media_type: str = "application/json"
    identifier: Any = Uuid7
    """The type of what stands in braces in the path."""
    other_form: tuple[type[BaseModel], type[BaseModel]] | None = None
    """A second form of the request, and what is answered then."""
    others: Mapping[int, type[BaseModel]] = field(default_factory=dict)
    """What is answered with another status that is no problem."""
    body_optional: bool = False
    open_here: bool = False
    """Needs no token from this machine itself."""
    public: bool = False
    """Needs no token."""
    links: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """What can be asked next, by `operationId`: a parameter of that and where in this answer its value is."""


def to_aiohttp(routes: Iterable[Route]) -> list[web.RouteDef]:
    """Return the routes for an application: a word that ends another path is no value of a parameter in its place.

    `/agents/kill` is no agent of the name `kill`, so GET there is 405 and not 404.
    """
    routes = list(routes)
    words: dict[str, set[str]] = {}
    for route in routes:
        before, _, last = route.path.rpartition("/")
        words.setdefault(before, set()).add(last)
    return [web.route(route.method, _pattern(route.path, words), route.handler) for route in routes]


def _pattern(path: str, words: Mapping[str, set[str]]) -> str:
    before, _, last = path.rpartition("/")
    others = "|".join(sorted(re.escape(word) for word in words[before] if not word.startswith("{")))
    if not last.startswith("{") or not others:
        return path
    return f"{before}/{{{last[1:-1]}:(?!(?:{others})$)[^{{}}/]+}}"


def read_query(request: web.Request, model: type[Q]) -> Q:
    """Read the query string as `model`; raises `InvalidRequest` naming each wrong parameter."""
    try:
        return model.model_validate(dict(request.query))
    except ValidationError as error:
        raise invalid_request(error) from error
