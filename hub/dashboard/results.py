"""An agent's result as its page shows it, whatever its spoke made of it: the page of a bad one still opens."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, ValidationError

from common.wire import TolerantModel


class Commit(TolerantModel):
    """One commit of the agent's."""

    sha: str = ""
    subject: str = ""


class DiffStat(TolerantModel):
    """How much it changed."""

    files: int = 0
    insertions: int = 0
    deletions: int = 0


class ShownResult(TolerantModel):
    """What is shown of a result; a member that is missing is not shown."""

    summary: str | None = None
    data: Any = None
    # A JSON array is a list, which strict mode would not take for a tuple.
    commits: Annotated[tuple[Commit, ...], Field(strict=False)] = ()
    branch: str | None = None
    diff_stat: DiffStat | None = None
    usage: dict[str, Any] | None = None
    preserved_ref: str | None = None


def read_result(told: dict[str, Any] | None) -> ShownResult | None:
    """Return what a spoke told; as mere data where it is not what the protocol says, None where there is none."""
    if not told:
        return None
    try:
        return ShownResult.model_validate(told)
    except ValidationError:
        return ShownResult(data=told)
