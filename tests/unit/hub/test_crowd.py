from __future__ import annotations

from contextlib import ExitStack

import pytest

from common.errors import Unavailable
from hub.crowd import Crowd


def test_so_many_of_each_address_and_no_more() -> None:
    crowd = Crowd(2)
    with ExitStack() as stack:
        for address in ("a", "b", "a", "b"):
            stack.enter_context(crowd.entering(address))
        with pytest.raises(Unavailable), crowd.entering("a"):
            pass
        with crowd.entering("c"):
            pass
    with crowd.entering("a"), crowd.entering("a"):
        pass
    assert not crowd._inside


def test_whoever_fails_leaves_too() -> None:
    crowd = Crowd(1)
    for _ in range(3):
        with pytest.raises(ValueError, match="inside"), crowd.entering("a"):
            raise ValueError("inside")
