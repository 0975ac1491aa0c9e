"""Which spoke takes an agent when nobody names one."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from common.ids import is_uuid7, uuid7_time_ms
from hub.placement import Candidate, has_labels, place
from hub.placing import id_in
from tests.envelopes import id_of

CASES: dict[str, tuple[list[Candidate], int, dict[str, int]]] = {
    "evenly": ([Candidate("a", 0), Candidate("b", 0)], 4, {"a": 2, "b": 2}),
    "the emptier one": ([Candidate("a", 3), Candidate("b", 0)], 3, {"b": 3}),
    "by size": ([Candidate("a", 0, size=1), Candidate("b", 0, size=3)], 4, {"a": 1, "b": 3}),
    "of load for its size": ([Candidate("a", 4, size=8), Candidate("b", 2, size=2)], 1, {"a": 1}),
    "more than there is room": ([Candidate("a", 9, size=1)], 3, {"a": 3}),
    "none of size 0": ([Candidate("a", 0, size=0), Candidate("b", 50)], 2, {"b": 2}),
    "none that is away": ([Candidate("a", 0, reachable=False), Candidate("b", 50)], 2, {"b": 2}),
    "one that is away when all are": ([Candidate("a", 0, reachable=False)], 2, {"a": 2}),
    "away beats size 0": ([Candidate("a", 0, reachable=False), Candidate("b", 0, size=0)], 1, {"a": 1}),
    "nobody": ([Candidate("a", 0, size=0)], 2, {}),
}


@pytest.mark.parametrize(("candidates", "count", "expected"), CASES.values(), ids=CASES.keys())
def test_where_there_is_least_to_do(candidates: list[Candidate], count: int, expected: dict[str, int]) -> None:
    assert Counter(place(candidates, count)) == expected
    assert Counter(place(candidates[::-1], count)) == expected


LABELS: dict[str, tuple[dict[str, str], dict[str, str], dict[str, Any], bool]] = {
    "none wanted": ({}, {}, {}, True),
    "ours": ({"region": "eu"}, {"region": "eu", "x": "y"}, {}, True),
    "told": ({"region": "eu"}, {}, {"region": "eu"}, True),
    "ours before told": ({"region": "eu"}, {"region": "us"}, {"region": "eu"}, False),
    "only one of two": ({"region": "eu", "gpu": "1"}, {"region": "eu"}, {}, False),
    "none there": ({"region": "eu"}, {}, {}, False),
}


@pytest.mark.parametrize(("wanted", "ours", "told", "expected"), LABELS.values(), ids=LABELS.keys())
def test_labels(wanted: dict[str, str], ours: dict[str, str], told: dict[str, Any], expected: bool) -> None:
    assert has_labels(wanted, ours, told) is expected


def test_the_ids_of_a_batch_are_its_own_and_always_the_same() -> None:
    ids = {id_in(id_of(1), str(number)) for number in range(1000)}
    assert ids == {id_in(id_of(1), str(number)) for number in range(1000)}
    assert len(ids | {id_in(id_of(2), "0")}) == 1001
    assert all(is_uuid7(each) and uuid7_time_ms(each) == uuid7_time_ms(id_of(1)) for each in ids)
