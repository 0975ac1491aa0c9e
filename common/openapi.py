"""The OpenAPI 3.1 document, made from the route table and the models that check the requests."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from typing import Any, Final

from aiohttp import web
from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import models_json_schema

from common.http import Handler, json_response
from common.route import Query, Route
from common.wire import TolerantModel

_REFERENCE: Final = "#/components/schemas/{model}"
_PARAMETER: Final = re.compile(r"\{([A-Za-z]+)\}")
_WORD: Final = re.compile(r"[A-Za-z0-9]+")
_DESCRIPTION: Final = (
    "Whole numbers are written without a fraction (`4.0` is no number of attempts) and lie within 2^53-1 of zero. A "
    "request has no members beside those that are described; an answer may have more."
)


class FieldProblem(TolerantModel):
    """What is wrong with one field of a request."""

    field: str
    problem: str


class Problem(TolerantModel):
    """RFC 9457, with a stable `code`; `errors` names wrong fields."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    errors: list[FieldProblem] | None = None


def serve_openapi(title: str, routes: Sequence[Route]) -> Handler:
    """Return the handler that answers with the document of these routes."""
    document = build_openapi(title, routes)

    async def show_openapi(_request: web.Request) -> web.StreamResponse:
        return json_response(document)

    return show_openapi


def build_openapi(title: str, routes: Sequence[Route]) -> dict[str, Any]:
    """Return the document as a JSON object."""
    _, schemas = models_json_schema(
        list(dict.fromkeys(model for route in routes for model in _models(route))), ref_template=_REFERENCE
    )
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version("hubspoke"), "description": _DESCRIPTION},
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _models(route: Route) -> Iterable[tuple[type[BaseModel], Any]]:
    yield Problem, "serialization"
    for model in _requests(route):
        yield model, "validation"
    for model in (*_responses(route), *route.others.values()):
        yield model, "serialization"


def _requests(route: Route) -> list[type[BaseModel]]:
    other = [] if route.other_form is None else [route.other_form[0]]
    return [] if route.request is None else [route.request, *other]


def _responses(route: Route) -> list[type[BaseModel]]:
    other = [] if route.other_form is None else [route.other_form[1]]
    return [] if route.response is None else [route.response, *other]


def _operation(route: Route) -> dict[str, Any]:
    answer = {"description": route.summary, **_content(_responses(route), route.media_type)}
    if route.links:
        answer["links"] = {
            operation: {"operationId": operation, "parameters": {parameter: f"$response.body#/{member}"}}
            for operation, (parameter, member) in route.links.items()
        }
    operation: dict[str, Any] = {
        "summary": route.summary,
        "operationId": operation_id(route.method, route.path),
        "parameters": [*_path_parameters(route), *_query_parameters(route.query)],
        "responses": {
            str(route.status): answer,
            **{
                str(status): {"description": _first_line(model), **_content([model], "application/json")}
                for status, model in route.others.items()
            },
            "default": {"description": "A problem", **_content([Problem], "application/problem+json")},
        },
    }
    if route.request is not None:
        operation["requestBody"] = {
            "required": not route.body_optional,
            **_content(_requests(route), "application/json"),
        }
    if route.public:
        operation["security"] = []
    if route.open_here:
        operation["security"] = [{}, {"token": []}]
    return operation


def operation_id(method: str, path: str) -> str:
    """Return the name of an operation: its method and the words of its path, without what stands for all."""
    return "_".join([method.lower(), *(word for word in _WORD.findall(path) if word not in {"api", "v1"})])


def _first_line(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").partition("\n")[0]


def _path_parameters(route: Route) -> list[dict[str, Any]]:
    schema = TypeAdapter(route.identifier).json_schema()
    return [{"name": name, "in": "path", "required": True, "schema": schema} for name in _PARAMETER.findall(route.path)]


def _query_parameters(model: type[Query] | None) -> list[dict[str, Any]]:
    if model is None:
        return []
    properties = model.model_json_schema()["properties"]
    return [{"name": name, "in": "query", "required": False, "schema": schema} for name, schema in properties.items()]


def _content(models: Sequence[type[BaseModel]], media_type: str) -> dict[str, Any]:
    if not models:
        return {"content": {media_type: {"schema": {"type": "string"}}}}
    references = [{"$ref": _REFERENCE.format(model=model.__name__)} for model in models]
    return {"content": {media_type: {"schema": references[0] if len(references) == 1 else {"oneOf": references}}}}
