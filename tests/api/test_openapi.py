"""The OpenAPI documents of both nodes are valid, and the nodes do what they say: whatever is sent to them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.link.pair import Pair

pytestmark = pytest.mark.api

SCHEMATHESIS = Path(sys.executable).parent / "schemathesis"
ROOT = Path(__file__).parents[2]
CONFIGURATION = Path(__file__).parent / "schemathesis.toml"
EXAMPLES = int(os.environ.get("EXAMPLES", "25"))
SEED = os.environ.get("SEED", "1")
ENDLESS = ("/api/v1/events", "/api/v1/agents/{id}/logs/stream")
"""Streams that end with the reader; tests/integration/hub reads them."""


async def _documents(pair: Pair) -> dict[str, Any]:
    _, of_hub = await pair.hub.call("GET", "/api/v1/openapi.json")
    _, of_spoke = await pair.spoke.call("GET", "/openapi.json")
    return {"hub": of_hub, "spoke": of_spoke}


async def test_the_documents_are_valid(pair: Pair) -> None:
    # Not installed where the other tests run, which collect this file, too.
    from openapi_spec_validator import OpenAPIV31SpecValidator

    for document in (await _documents(pair)).values():
        assert document["openapi"] == "3.1.0"
        OpenAPIV31SpecValidator(document).validate()


def _run(url: str, token: str, directory: Path, *arguments: str) -> None:
    done = subprocess.run(
        [
            str(SCHEMATHESIS), "--no-color", "--config-file", str(CONFIGURATION), "run", url,
            "--header", f"Authorization: Bearer {token}", "--max-examples", str(EXAMPLES), "--seed", SEED,
            "--generation-database", "none", *arguments,
        ],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(300)
def test_a_hub_does_what_its_document_says(pair: Pair, tmp_path: Path) -> None:
    left_out = [word for path in ENDLESS for word in ("--exclude-path", path)]
    _run(f"{pair.hub.url}/api/v1/openapi.json", pair.hub.token, tmp_path, *left_out)
    assert pair.hub.log_lines("request.crashed") == []


@pytest.mark.timeout(300)
def test_a_spoke_does_what_its_document_says(pair: Pair, tmp_path: Path) -> None:
    _run(f"{pair.spoke.url}/openapi.json", pair.spoke.token, tmp_path)
    assert pair.spoke.log_lines("request.crashed") == []
