"""What counts as a lost store, and which envelopes may be taken after one."""

from __future__ import annotations

import pytest

from common.envelope import MAX_LIFETIME_S
from common.store_mark import KnownStore, StoreLost, StoreMark, find_loss

KNOWN = StoreMark("ours", accepted=7)
SKEW_S = 60
LOST_S = 1_795_000_000


@pytest.mark.parametrize(
    ("known", "generation", "accepted", "cause"),
    [
        pytest.param(None, "", 0, None, id="a first start"),
        pytest.param(None, "another", 3, "foreign", id="a fresh directory on a store in use"),
        pytest.param(KNOWN, "ours", 7, None, id="the same"),
        pytest.param(KNOWN, "ours", 9, None, id="the mark lags behind"),
        pytest.param(KNOWN, "ours", 6, "rolled_back", id="an old copy"),
        pytest.param(KNOWN, "ours", 0, "rolled_back", id="its counter is gone"),
        pytest.param(KNOWN, "", 0, "emptied", id="emptied"),
        pytest.param(KNOWN, "another", 7, "foreign", id="another store"),
        pytest.param(StoreMark("ours"), "", 0, None, id="killed before the first generation was written"),
    ],
)
def test_what_is_a_loss(known: StoreMark | None, generation: str, accepted: int, cause: str | None) -> None:
    assert find_loss(known, generation, accepted) == cause


def lost(at_ms: int = LOST_S * 1000, *, settled: bool = True) -> KnownStore:
    known = KnownStore(SKEW_S)
    known.mark = StoreMark("new", 1, at_ms, "emptied", settled=settled)
    return known


@pytest.mark.attack(25)
def test_an_envelope_that_may_have_been_accepted_before_is_refused_and_a_later_one_is_not() -> None:
    # Accepted at the last moment, from a sender whose clock is as far ahead as it may be.
    with pytest.raises(StoreLost) as refused:
        lost().check_signed(LOST_S + SKEW_S)
    assert (refused.value.code, refused.value.http_status, refused.value.retryable) == ("unavailable", 503, True)
    assert refused.value.retry_after_s == SKEW_S + 1
    lost().check_signed(LOST_S + SKEW_S + 1)


def test_nothing_is_taken_before_a_loss_was_dealt_with() -> None:
    with pytest.raises(StoreLost):
        lost(settled=False).check_signed(LOST_S + 10 * SKEW_S)


@pytest.mark.attack(25)
def test_the_last_envelope_that_is_refused_expires_when_the_windows_have_closed() -> None:
    last_signed_s = LOST_S + SKEW_S
    assert last_signed_s + MAX_LIFETIME_S + SKEW_S < lost().mark.windows_closed_s(SKEW_S)
    assert lost().mark.refuses_until_s(SKEW_S) == LOST_S + SKEW_S + 1


def test_an_operator_is_told_until_the_windows_have_closed() -> None:
    mark = lost().mark
    told = mark.tell(SKEW_S, LOST_S + 5) or ""
    assert told.startswith("the store was emptied, noticed at 2026-11-")
    assert "are refused" in told
    assert mark.tell(SKEW_S, mark.windows_closed_s(SKEW_S) - 1) is not None
    assert mark.tell(SKEW_S, mark.windows_closed_s(SKEW_S)) is None
    assert KNOWN.tell(SKEW_S, LOST_S) is None


def test_without_a_loss_nothing_is_refused() -> None:
    known = KnownStore(SKEW_S)
    known.check_signed(0)
    assert (known.mark.refuses_until_s(SKEW_S), known.mark.windows_closed_s(SKEW_S)) == (0, 0)


def test_the_counter_only_grows_and_only_for_the_generation_it_counts() -> None:
    known = KnownStore()
    known.mark = KNOWN
    for generation, accepted in (("ours", 9), ("ours", 8), ("another", 100)):
        known.saw(generation, accepted)
    assert known.mark == StoreMark("ours", accepted=9)


def test_a_mark_is_read_as_it_was_written() -> None:
    mark = StoreMark("ours", 7, 1_795_000_000_000, "rolled_back", settled=False)
    assert StoreMark.decode(mark.encode()) == mark


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"generation": "ours"}', KNOWN.encode().replace(b"7", b'"7"'), b"\xff"]
)
def test_anything_else_is_no_mark(content: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # whatever the parser calls it
        StoreMark.decode(content)


def test_the_refusal_of_a_store_that_is_not_the_known_one_asks_to_come_back_soon() -> None:
    assert (KnownStore().refusal().code, KnownStore().refusal().retry_after_s) == ("unavailable", 1)
