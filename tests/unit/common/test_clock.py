from __future__ import annotations

import time

from common.clock import SystemClock
from common.ids import is_uuid7, uuid7_time_ms


def test_the_clock_is_the_machines() -> None:
    before = time.time()
    now_ms = SystemClock().now_ms()
    assert before * 1000 - 1 <= now_ms <= time.time() * 1000


def test_ids_are_fresh_and_carry_the_time() -> None:
    clock = SystemClock()
    before = clock.now_ms()
    made = [clock.new_id() for _ in range(1000)]
    assert len(set(made)) == 1000
    assert all(is_uuid7(each) for each in made)
    assert before <= uuid7_time_ms(made[0]) <= uuid7_time_ms(made[-1]) <= clock.now_ms()
