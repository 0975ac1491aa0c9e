"""How long a spoke remembers, in the unit of its queue."""

from __future__ import annotations

from spoke.queue_terms import Bounds


def test_ended_agents_are_kept_for_days() -> None:
    assert Bounds(retention_days=30).retention_ms == 2_592_000_000


def test_an_envelope_is_remembered_while_it_could_be_in_its_window() -> None:
    assert Bounds(skew_s=60).replay_ms == 420_000
