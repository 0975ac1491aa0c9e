from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import strict_json
from common.commands import MAX_TEXT
from common.envelope import (
    MAX_ITEMS,
    MAX_ITEMS_BYTES,
    Claims,
    EnvelopeType,
    Items,
    batches,
    check_fits,
    seal,
    verify,
)
from common.errors import EnvelopeRejected
from common.jose import MAX_ENVELOPE_BYTES, parse_compact
from common.keyring import SigningKey
from tests.envelopes import (
    HUB_KEY,
    NONCE,
    NOW_S,
    SPOKE_KEY,
    TRACE,
    claims,
    id_of,
    spawn,
    spoke_trust,
)

RING = spoke_trust().keyring


def sealed(items: Items, typ: EnvelopeType = EnvelopeType.COMMAND, key: SigningKey = HUB_KEY, **fields: Any) -> bytes:
    return seal(key, typ, Claims(**claims()), fields, items)


def test_what_is_sealed_is_verified_to_the_same() -> None:
    kill = {"id": id_of(5), "command": "kill", "agentId": id_of(2), "graceS": 9, "reason": "é\u2028\N{GRINNING FACE}"}
    raw = sealed(Items("commands", [strict_json.encode(spawn()), strict_json.encode(kill)]))
    assert [parsed.model_dump(by_alias=True) for parsed in verify(raw, RING, NOW_S).commands] == [spawn(), kill]


def test_fields_and_items_and_claims_stand_side_by_side() -> None:
    raw = sealed(Items("results", []), EnvelopeType.REPLY, re=id_of(1))
    assert strict_json.parse(parse_compact(raw).payload) == {**claims(), "re": id_of(1), "results": []}
    raw = seal(HUB_KEY, EnvelopeType.HELLO, Claims(**claims(), traceparent=TRACE), {"nonce": NONCE})
    assert strict_json.parse(parse_compact(raw).payload) == {**claims(), "traceparent": TRACE, "nonce": NONCE}


printable = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


@given(work_items=st.lists(printable, min_size=1, max_size=5), priority=st.integers(1, 10), repository=printable)
def test_sealing_and_verifying_is_a_round_trip(work_items: list[str], priority: int, repository: str) -> None:
    asked = spawn(priority=priority, context={**spawn()["context"], "workItems": work_items, "repository": repository})
    raw = sealed(Items("commands", [strict_json.encode(asked)]))
    [parsed] = verify(raw, RING, NOW_S).commands
    assert parsed.model_dump(by_alias=True) == asked


# The longest that claims and fields can be: nothing else of an envelope grows with what is sent.
LONG = {"iss": "h" * 63, "aud": "a" * 255, "iat": 2**53 - 2, "exp": 2**53 - 1, "traceparent": TRACE}


def seal_longest(batch: list[bytes]) -> bytes:
    return seal(SPOKE_KEY, EnvelopeType.IDENTITY, Claims(**claims(**LONG)), {"re": id_of(1)}, Items("commands", batch))


BATCHES: dict[str, list[bytes]] = {
    "one of the largest size": [b"x" * MAX_ITEMS_BYTES],
    "three of the largest size": [b"x" * MAX_ITEMS_BYTES] * 3,
    "one byte less each": [b"x" * (MAX_ITEMS_BYTES - 1)] * 3,
    "two that just fit together": [b"x" * (MAX_ITEMS_BYTES // 2 - 1)] * 4,
    "two that just do not": [b"x" * (MAX_ITEMS_BYTES // 2)] * 4,
    "large and small in turn": [b"x" * size for size in (MAX_ITEMS_BYTES, 1, MAX_ITEMS_BYTES - 2, 1, 5)],
    "very many small ones": [b"1"] * 3500,
    "a thousand that are too much together": [b"x" * 1500] * 1000,
}


@pytest.mark.parametrize("items", BATCHES.values(), ids=BATCHES)
def test_no_batch_is_over_a_limit_once_it_is_sealed(items: list[bytes]) -> None:
    made = list(batches(items))
    assert [item for batch in made for item in batch] == items
    for batch in made:
        assert 0 < len(batch) <= MAX_ITEMS
        assert len(seal_longest(batch)) <= MAX_ENVELOPE_BYTES


@given(st.lists(st.integers(1, MAX_ITEMS_BYTES), max_size=12))
def test_batches_keep_the_order_and_the_limit_and_waste_no_envelope(sizes: list[int]) -> None:
    items = [b"x" * size for size in sizes]
    made = list(batches(items))
    assert [item for batch in made for item in batch] == items
    total = [sum(len(item) + 1 for item in batch) for batch in made]
    assert all(size <= MAX_ITEMS_BYTES + 1 for size in total)
    for before, after, size in zip(made, made[1:], total, strict=False):
        assert len(before) > 0
        assert size + len(after[0]) + 1 > MAX_ITEMS_BYTES


def test_a_batch_is_filled_to_the_last_byte_also_after_the_first() -> None:
    half = b"x" * (MAX_ITEMS_BYTES // 2 - 1)
    assert [len(batch) for batch in batches([half] * 5)] == [2, 2, 1]
    assert [len(batch) for batch in batches([half, half + b"x", half, half + b"x"])] == [1, 1, 1, 1]


def test_no_items_make_no_batch() -> None:
    assert list(batches([])) == []


def test_an_item_that_fits_no_envelope_is_refused_and_never_sealed() -> None:
    largest_spawn = spawn(context={**spawn()["context"], "workItems": ["w" * MAX_TEXT] * 100})
    item = strict_json.encode(largest_spawn)
    made = batches([b"1", item])
    with pytest.raises(EnvelopeRejected) as refused:
        list(made)
    assert refused.value.code == "too_large"
    with pytest.raises(EnvelopeRejected):
        check_fits(item)
    check_fits(b"x" * MAX_ITEMS_BYTES)
