"""The two kinds of model that read JSON of the wire, and the types that many of them share.

`StrictModel` refuses members it does not know and takes no value for another type (`"5"`, `5.0` and `true` are no
integers); `TolerantModel` is as strict about what it knows and ignores the rest, for AgentStatus (PROTOCOL section
2). Members are camelCase on the wire, snake_case in Python.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from common.ids import INSTANCE_ID_PATTERN, TASK_ID_PATTERN, UUID7_PATTERN

Uuid7 = Annotated[str, Field(pattern=UUID7_PATTERN)]
InstanceId = Annotated[str, Field(pattern=INSTANCE_ID_PATTERN)]
TaskId = Annotated[str, Field(pattern=TASK_ID_PATTERN)]
Nonce = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{43}$")]
"""32 bytes in base64url without padding."""


def _refuse_null(value: Any) -> Any:
    if value is None:
        raise ValueError("must not be null; leave it out")
    return value


NotNull = BeforeValidator(_refuse_null)
"""For a member that may be left out, which is not the same as null."""


class StrictModel(BaseModel):
    """Known members of their exact types and nothing else."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        alias_generator=to_camel,
        validate_by_name=False,
        validate_by_alias=True,
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
    )


def first_problem(error: ValidationError) -> str:
    """Name the first wrong field and its rule in one line, without the value that was sent."""
    problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = ".".join(str(step) for step in problem["loc"])
    return f"{place}: {problem['msg']}" if place else str(problem["msg"])
