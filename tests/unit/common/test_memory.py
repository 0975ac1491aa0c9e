"""What a node is built from is not gone through again, and cycles that come later are still found."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from common.memory import BETWEEN_SEARCHES, settle


class Ring:
    """Refers to itself."""

    def __init__(self) -> None:
        self.me = self


@pytest.fixture
def settled() -> Iterator[None]:
    before = gc.get_threshold()
    settle()
    yield
    gc.unfreeze()
    gc.set_threshold(*before)


@pytest.mark.usefixtures("settled")
def test_what_is_there_is_left_out_of_later_searches() -> None:
    assert gc.get_freeze_count() > 0
    assert gc.get_threshold()[0] == BETWEEN_SEARCHES


@pytest.mark.usefixtures("settled")
def test_a_cycle_that_came_later_is_found_by_itself() -> None:
    gone = weakref.ref(Ring())
    kept: list[list[int]] = []
    while gone() is not None and len(kept) < 10 * BETWEEN_SEARCHES:
        kept.append([])
    assert gone() is None
