"""The table of codes says what the source does: every code is in it, and every code in it is used."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import runpy
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

import common
import hub
import spoke
from common import http, strict_json
from common.errors import COMMAND_RETRYABLE, ENVELOPE_STATUS, HubspokeError, LocalError, PeerError
from common.problem_codes import CODES, label_of
from common.problem_routes import problem_routes
from common.route import to_aiohttp

ROOT = Path(__file__).parents[2]
PLACE_OF_CODE = {
    "EnvelopeRejected": 0,
    "CommandRefused": 0,
    "SpokeRefused": 0,
    "StepRefused": 0,
    "shown_error": 0,
    "complain": 0,
    "problem_document": 1,
    "EnvelopeNotTaken": 1,
}
"""Which argument of a call is a code."""


def _texts(value: ast.expr | None) -> Iterator[str]:
    if isinstance(value, ast.IfExp):
        yield from _texts(value.body)
        yield from _texts(value.orelse)
    elif isinstance(value, ast.Constant) and isinstance(value.value, str):
        yield value.value


def _codes_of(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Assign(targets=[ast.Name(id="code")], value=value):
            yield from _texts(value)
        case ast.AnnAssign(target=ast.Name(id="code"), value=value):
            yield from _texts(value)
        case ast.Dict(keys=keys, values=values):
            for key, value in zip(keys, values, strict=True):
                if "code" in _texts(key):
                    yield from _texts(value)
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=arguments, keywords=keywords):
            if (place := PLACE_OF_CODE.get(name)) is not None and len(arguments) > place:
                yield from _texts(arguments[place])
            for keyword in keywords:
                if keyword.arg == "code":
                    yield from _texts(keyword.value)


def _in_source() -> set[str]:
    paths = [path for package in ("common", "hub", "spoke") for path in (ROOT / package).rglob("*.py")]
    found = {code for path in paths for node in ast.walk(ast.parse(path.read_text())) for code in _codes_of(node)}
    return found | set(ENVELOPE_STATUS) | set(COMMAND_RETRYABLE) | set(http._HTTP_CODES.values())


def _errors() -> list[type[HubspokeError]]:
    for package in (common, hub, spoke):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    found: list[type[HubspokeError]] = [HubspokeError]
    for error in found:
        found += error.__subclasses__()
    return [error for error in found if error.__module__.partition(".")[0] in {"common", "hub", "spoke"}]


def test_every_code_in_the_source_is_in_the_table() -> None:
    assert _in_source() - set(CODES) == set()


def test_every_code_in_the_table_is_in_the_source() -> None:
    assert set(CODES) - _in_source() == set()


def test_the_table_names_the_status_of_each_error() -> None:
    for error in _errors():
        if "code" in vars(error) and not issubclass(error, LocalError):
            statuses = CODES[error.code].statuses
            assert not statuses or error.http_status in statuses, error
    for code, status in ENVELOPE_STATUS.items():
        assert status in CODES[code].statuses, code
    for status, code in http._HTTP_CODES.items():
        assert status in CODES[code].statuses, code
    assert all(HTTPStatus(status) for known in CODES.values() for status in known.statuses)


def test_the_page_is_what_the_table_says() -> None:
    page = runpy.run_path(str(ROOT / "docs" / "generate_problems.py"))["render"]()
    assert (ROOT / "docs" / "problems.md").read_text() == page, "run: python docs/generate_problems.py"


@pytest.fixture
async def client(aiohttp_client: Any) -> Any:
    app = web.Application(middlewares=[http.problems])
    app.add_routes(to_aiohttp(problem_routes()))
    return await aiohttp_client(app)


async def test_a_problem_leads_to_what_its_code_means(client: Any) -> None:
    for code in CODES:
        document = strict_json.parse(http.encode_problem(PeerError("it happened", code=code)))
        response = await client.get(document["type"])
        assert response.status == 200
        shown = await response.json()
        assert (shown["code"], shown["meaning"]) == (code, CODES[code].meaning)
    assert [each["code"] for each in (await (await client.get("/problems")).json())["problems"]] == list(CODES)


async def test_a_code_that_there_is_not_is_not_found(client: Any) -> None:
    response = await client.get("/problems/no_such_code")
    assert (response.status, (await response.json())["code"]) == (404, "not_found")


def test_a_code_of_another_make_leads_nowhere() -> None:
    document = strict_json.parse(http.encode_problem(PeerError("it happened", code="not_of_ours")))
    assert (document["type"], document["code"]) == ("about:blank", "not_of_ours")
    assert (label_of("not_of_ours"), label_of("stale")) == ("other", "stale")
