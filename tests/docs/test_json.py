"""Documents of the hub's API on the pages: the model of its type reads each, and no member is missing."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from hub import answers
from tests.docs.blocks import Block, of_kind
from tests.unit.hub.test_answers import SAME


def read(name: str, text: str) -> None:
    """Read a document as the type of `hub.answers` of that name; raises what its model says to a wrong one."""
    typed = getattr(answers, name)
    SAME[typed].model_validate(json.loads(text), strict=True)
    assert set(json.loads(text)) >= typed.__required_keys__


@pytest.mark.parametrize("block", of_kind("json"), ids=str)
def test_a_document_is_one_of_its_type(block: Block) -> None:
    (_, name) = block.words
    read(name, block.text)


@pytest.mark.parametrize("text", ['{"state": "sent", "attempts": 1, "lastError": null}', '{"state": "delivered"}'])
def test_a_wrong_document_is_not(text: str) -> None:
    with pytest.raises((ValidationError, AssertionError)):
        read("Delivery", text)
