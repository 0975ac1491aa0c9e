"""One table of routes, from which the application and the OpenAPI document are both made: they cannot disagree."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from aiohttp import web
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from common.http import invalid_request
from hub.scopes import Scope, default_scope


class Query(BaseModel):
    """The parameters of a query string: text becomes numbers and booleans, unknown ones are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel, hide_input_in_errors=True)


Q = TypeVar("Q", bound=Query)


@dataclass(frozen=True, slots=True)
class Route:
    """What a route takes and answers; `media_type` is that of the answer, `scope` what a token must reach."""

    method: str
    path: str
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    summary: str
    status: int = 200
    query: type[Query] | None = None
    request: type[BaseModel] | None = None
    response: type[BaseModel] | None = None
    media_type: str = "application/json"
    scope: Scope | None = None

    @property
    def needs(self) -> Scope:
        """What a token must reach."""
        return self.scope or default_scope(self.method)

    def to_aiohttp(self) -> web.RouteDef:
        """Return the route for the application."""
        return web.route(self.method, self.path, self.handler, name=None)


def read_query(request: web.Request, model: type[Q]) -> Q:
    """Read the query string as `model`; raises `InvalidRequest` naming each wrong parameter."""
    try:
        return model.model_validate(dict(request.query))
    except ValidationError as error:
        raise invalid_request(error) from error
