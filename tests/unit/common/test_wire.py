from __future__ import annotations

from typing import Annotated, Any

import pytest
from pydantic import Field, ValidationError

from common.wire import InstanceId, NotNull, StrictModel, TaskId, TolerantModel, first_problem


class Inner(StrictModel):
    some_count: int = 0


class Strict(StrictModel):
    inner: Inner
    names: tuple[str, ...] = Field(default=(), strict=False)
    left_out: Annotated[str | None, NotNull] = None
    flag: bool = False
    instance: InstanceId = "a"
    task: TaskId = "t"


class Tolerant(TolerantModel):
    some_count: int


def problem_of(content: Any) -> str:
    with pytest.raises(ValidationError) as refused:
        Strict.model_validate(content)
    return first_problem(refused.value)


PLACES: dict[str, tuple[Any, str]] = {
    "missing": ({}, "inner: Field required"),
    "nested": ({"inner": {"someCount": "5"}}, "inner.someCount: Input should be a valid integer"),
    "in a list": ({"inner": {}, "names": ["a", 5]}, "names.1: Input should be a valid string"),
    "unknown": ({"inner": {}, "x": 1}, "x: Extra inputs are not permitted"),
    "unknown and not plain": ({"inner": {}, "a b": 1}, "?: Extra inputs are not permitted"),
    "unknown and long": ({"inner": {}, "a" * 65: 1}, "?: Extra inputs are not permitted"),
    "unknown and empty": ({"inner": {}, "": 1}, "?: Extra inputs are not permitted"),
    "name of Python": ({"inner": {"some_count": 1}}, "inner.some_count: Extra inputs are not permitted"),
    "null": ({"inner": {}, "leftOut": None}, "leftOut: Value error, must not be null; leave it out"),
    "number for a flag": ({"inner": {}, "flag": 1}, "flag: Input should be a valid boolean"),
    "no object at all": ([], "Input should be a valid dictionary or instance of Strict"),
}


@pytest.mark.parametrize(("content", "problem"), PLACES.values(), ids=PLACES)
def test_the_first_problem_names_the_place_and_the_rule(content: Any, problem: str) -> None:
    assert problem_of(content) == problem


def test_a_member_may_be_left_out_that_must_not_be_null() -> None:
    assert Strict.model_validate({"inner": {}}).left_out is None
    assert Strict.model_validate({"inner": {}, "leftOut": "x"}).left_out == "x"


def test_models_do_not_change() -> None:
    with pytest.raises(ValidationError):
        Inner(someCount=1).some_count = 2  # type: ignore[misc]


def test_a_tolerant_model_ignores_what_it_does_not_know_and_is_strict_about_the_rest() -> None:
    assert Tolerant.model_validate({"someCount": 1, "x": 2}).some_count == 1
    assert Tolerant(some_count=1).model_dump(by_alias=True) == {"someCount": 1}
    for wrong in ("5", 5.0, True, None):
        with pytest.raises(ValidationError):
            Tolerant.model_validate({"someCount": wrong})


def test_an_error_does_not_show_the_input() -> None:
    for model in (Strict, Tolerant):
        with pytest.raises(ValidationError) as refused:
            model.model_validate({"someCount": "hunter2", "inner": {"someCount": "hunter2"}})
        assert "hunter2" not in str(refused.value)
