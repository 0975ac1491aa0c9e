"""The two kinds of model that read JSON of the wire, and the types that many of them share.

`StrictModel` refuses members it does not know and takes no value for another type (`"5"`, `5.0` and `true` are no
integers); `TolerantModel` is as strict about what it knows and ignores the rest, for AgentStatus (PROTOCOL section
2). Members are camelCase on the wire, snake_case in Python.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from common.ids import INSTANCE_ID_PATTERN, TASK_ID_PATTERN, UUID7_PATTERN
from common.strict_json import MAX_INTEGER

Uuid7 = Annotated[str, Field(pattern=UUID7_PATTERN)]
InstanceId = Annotated[str, Field(pattern=INSTANCE_ID_PATTERN)]
Audience = Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]{1,255}$")]
"""Wider than an instance id: a near miss (other case, trailing dot) is the wrong audience, no bad shape (attack 26)."""
Integer = Annotated[int, Field(ge=-MAX_INTEGER, le=MAX_INTEGER)]
"""As `strict_json` takes integers, for models that are read without it (`own_form`)."""
TaskId = Annotated[str, Field(pattern=TASK_ID_PATTERN)]
Nonce = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{43}$")]
"""32 bytes in base64url without padding."""


def _refuse_null(value: Any) -> Any:
    if value is None:
        raise ValueError("must not be null; leave it out")
    return value


NotNull = BeforeValidator(_refuse_null)
"""For a member that may be left out, which is not the same as null: `Annotated[str | None, NotNull] = None`.

It stands outside the union: inside, pydantic lets null pass through the other branch.
"""


class StrictModel(BaseModel):
    """Known members of their exact types and nothing else."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        alias_generator=to_camel,
        validate_by_name=False,
        validate_by_alias=True,
        hide_input_in_errors=True,
    )


class TolerantModel(BaseModel):
    """Known members of their exact types; unknown ones are ignored."""

    model_config = ConfigDict(
        strict=True,
        extra="ignore",
        frozen=True,
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        hide_input_in_errors=True,
    )


_PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9_]{1,64}\Z")


def _step(name: int | str) -> str:
    # The name of an unknown member is the sender's: it could be a page long, or write to a terminal (attack 56).
    text = str(name)
    return text if _PLAIN_NAME.match(text) else "?"


def first_problem(error: ValidationError) -> str:
    """Name the first wrong field and its rule in one short line, without anything else that was sent."""
    problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
    # The one message of pydantic that repeats a value.
    rule = "is none of the known names" if problem["type"] == "union_tag_invalid" else problem["msg"]
    return ": ".join(filter(None, [".".join(map(_step, problem["loc"])), rule]))
