from __future__ import annotations

import pytest

from hub.backoff import delay_s


@pytest.mark.fault(17)
@pytest.mark.parametrize(("failures", "longest"), [(1, 0.5), (2, 1), (3, 2), (7, 32), (8, 60), (9, 60), (10_000, 60)])
def test_pauses_double_up_to_a_minute(failures: int, longest: float) -> None:
    assert delay_s(failures, 0.0) == longest
    assert longest / 2 < delay_s(failures, 0.999) < longest
