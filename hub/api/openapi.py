"""The OpenAPI 3.1 document, made from the route table and the models that check the requests."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from hub.api.models import Problem, SpawnManyRequest, SpawnManyView
from hub.api.route import Query, Route

_REFERENCE: Final = "#/components/schemas/{model}"
_PARAMETER: Final = re.compile(r"\{([a-z]+)\}")
_MANY: Final = {"SpawnRequest": SpawnManyRequest, "SpawnedView": SpawnManyView}
"""The one route that takes either of two forms."""


def build_openapi(routes: Sequence[Route], version: str) -> dict[str, Any]:
    """Return the document as a JSON object."""
    _, schemas = models_json_schema(
        [(model, mode) for route in routes for model, mode in _models(route)], ref_template=_REFERENCE
    )
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "hubspoke hub", "version": version},
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _models(route: Route) -> Iterable[tuple[Any, Any]]:
    yield Problem, "serialization"
    for model, mode in ((route.request, "validation"), (route.response, "serialization")):
        if model is not None:
            yield model, mode
            if model.__name__ in _MANY:
                yield _MANY[model.__name__], mode


def _operation(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": route.summary,
        "operationId": _operation_id(route),
        "parameters": [*_path_parameters(route.path), *_query_parameters(route.query)],
        "responses": {
            str(route.status): {"description": route.summary, **_content(route.response, route.media_type)},
            "default": {"description": "A problem", **_content(Problem, "application/problem+json")},
        },
    }
    if route.request is not None:
        operation["requestBody"] = {"required": True, **_content(route.request, "application/json")}
    return operation


def _operation_id(route: Route) -> str:
    words = [word.strip("{}") for word in route.path.split("/")[3:]]
    return "_".join([route.method.lower(), *(word.replace(".", "_") for word in words)])


def _path_parameters(path: str) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in _PARAMETER.findall(path)
    ]


def _query_parameters(model: type[Query] | None) -> list[dict[str, Any]]:
    if model is None:
        return []
    properties = model.model_json_schema()["properties"]
    return [{"name": name, "in": "query", "required": False, "schema": schema} for name, schema in properties.items()]


def _content(model: type[BaseModel] | None, media_type: str) -> dict[str, Any]:
    if model is None:
        return {}
    references = [{"$ref": _REFERENCE.format(model=model.__name__)}]
    if model.__name__ in _MANY:
        references.append({"$ref": _REFERENCE.format(model=_MANY[model.__name__].__name__)})
    return {"content": {media_type: {"schema": references[0] if len(references) == 1 else {"oneOf": references}}}}
