"""What the OpenAPI document says of a route, and which paths a route of the application takes."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web

from common.http import json_response, problems
from common.openapi import build_openapi, operation_id
from common.route import Query, Route, to_aiohttp
from common.wire import InstanceId, StrictModel, TolerantModel


class Wanted(StrictModel):
    """What is wanted."""

    name: str


class WantedMany(StrictModel):
    """Much is wanted."""

    names: list[str]


class Found(TolerantModel):
    """What was found."""

    found_id: str


class FoundMany(TolerantModel):
    """Much was found."""

    found_ids: list[str]


class Later(TolerantModel):
    """It is found later."""

    detail: str


class Which(Query):
    """Which of them."""

    limit: int = 5


async def _answer(request: web.Request) -> web.Response:
    return json_response({"path": request.match_info.route.resource.canonical})  # type: ignore[union-attr]  # it has one


def _route(method: str, path: str, **members: Any) -> Route:
    return Route(method, path, _answer, "Does something", **members)


ROUTES = [
    _route(
        "POST",
        "/things",
        request=Wanted,
        response=Found,
        other_form=(WantedMany, FoundMany),
        status=201,
        links={"get_things_id": ("id", "foundId")},
    ),
    _route("GET", "/things/{id}", response=Found, query=Which, identifier=InstanceId),
    _route("POST", "/things/{id}/seek", request=Wanted, body_optional=True, response=Found, others={202: Later}),
    _route("POST", "/things/seek", request=Wanted, response=FoundMany),
    _route("GET", "/state", media_type="text/plain", open_here=True),
    _route("GET", "/words", response=Found, public=True),
]


def operation(method: str, path: str) -> Any:
    return build_openapi("things", ROUTES)["paths"][path][method]


def test_both_forms_of_a_request_and_what_each_is_answered_are_described() -> None:
    described = operation("post", "/things")
    names = ["Wanted", "WantedMany"]
    assert described["requestBody"] == {
        "required": True,
        "content": {
            "application/json": {"schema": {"oneOf": [{"$ref": f"#/components/schemas/{name}"} for name in names]}}
        },
    }
    assert set(described["responses"]) == {"201", "default"}
    assert described["responses"]["201"]["links"] == {
        "get_things_id": {"operationId": "get_things_id", "parameters": {"id": "$response.body#/foundId"}}
    }


def test_parameters_say_what_they_may_be() -> None:
    in_path, in_query = operation("get", "/things/{id}")["parameters"]
    assert (in_path["name"], in_path["required"], in_path["schema"]["pattern"][0]) == ("id", True, "^")
    assert (in_query["name"], in_query["required"], in_query["schema"]["default"]) == ("limit", False, 5)


def test_a_body_that_may_be_left_out_and_a_second_answer_are_described() -> None:
    described = operation("post", "/things/{id}/seek")
    assert described["requestBody"]["required"] is False
    assert described["responses"]["202"]["description"] == "It is found later."


def test_what_is_open_here_needs_a_token_elsewhere_only() -> None:
    described = operation("get", "/state")
    assert described["security"] == [{}, {"token": []}]
    assert described["responses"]["200"]["content"] == {"text/plain": {"schema": {"type": "string"}}}
    assert operation("get", "/words")["security"] == []
    assert "security" not in operation("post", "/things")


def test_every_operation_has_a_name_of_its_own() -> None:
    names = [operation_id(route.method, route.path) for route in ROUTES]
    assert names == [
        "post_things",
        "get_things_id",
        "post_things_id_seek",
        "post_things_seek",
        "get_state",
        "get_words",
    ]
    assert operation_id("GET", "/api/v1/agents/{id}/logs") == "get_agents_id_logs"


@pytest.mark.parametrize(
    ("method", "path", "status", "resource"),
    [
        ("GET", "/things/seek", 405, None),
        ("GET", "/things/seeker", 200, "/things/{id}"),
        ("POST", "/things/seek", 200, "/things/seek"),
        ("POST", "/things/seek/seek", 200, "/things/{id}/seek"),
    ],
)
async def test_the_last_word_of_a_path_is_no_value_of_a_parameter_in_its_place(
    aiohttp_client: Any, method: str, path: str, status: int, resource: str | None
) -> None:
    app = web.Application(middlewares=[problems])
    app.add_routes(to_aiohttp(ROUTES))
    client = await aiohttp_client(app)
    response = await client.request(method, path)
    assert (response.status, (await response.json()).get("path")) == (status, resource)
