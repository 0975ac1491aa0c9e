from __future__ import annotations

import re
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.ids import (
    INSTANCE_ID_PATTERN,
    TASK_ID_PATTERN,
    UUID7_PATTERN,
    is_instance_id,
    is_uuid7,
    rfc3339,
    uuid7,
    uuid7_time_ms,
)

GOOD = "01a1eb65-4c00-7abc-8def-0123456789ab"

times_ms = st.integers(0, 2**48 - 1)
randomness = st.binary(min_size=10, max_size=10)


@given(times_ms, randomness)
def test_uuid7_has_the_layout_of_rfc_9562(now_ms: int, random_bytes: bytes) -> None:
    made = uuid.UUID(text := uuid7(now_ms, random_bytes))
    assert str(made) == text
    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    assert made.int >> 80 == now_ms
    rand_a = int.from_bytes(random_bytes[:2], "big") & 0xFFF
    rand_b = int.from_bytes(random_bytes[2:], "big") & (1 << 62) - 1
    assert made.int >> 64 & 0xFFF == rand_a
    assert made.int & (1 << 62) - 1 == rand_b


@given(times_ms, randomness)
def test_uuid7_carries_its_time_and_is_canonical(now_ms: int, random_bytes: bytes) -> None:
    made = uuid7(now_ms, random_bytes)
    assert uuid7_time_ms(made) == now_ms
    assert is_uuid7(made)


@given(times_ms, times_ms, randomness)
def test_uuid7_sorts_by_time(one_ms: int, other_ms: int, random_bytes: bytes) -> None:
    one, other = uuid7(one_ms, random_bytes), uuid7(other_ms, random_bytes)
    assert (one < other) == (one_ms < other_ms)


def test_the_example_of_rfc_9562_appendix_a_6() -> None:
    random_bytes = (0xCC3 << 64 | 0x18C4DC0C0C07398F).to_bytes(10, "big")
    assert uuid7(1645557742000, random_bytes) == "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"


@pytest.mark.parametrize("count", [0, 9, 11, 16])
def test_uuid7_takes_ten_random_bytes(count: int) -> None:
    with pytest.raises(ValueError, match="takes 10 random bytes"):
        uuid7(0, bytes(count))


RESPELLED = {
    "braces": "{" + GOOD + "}",
    "urn": "urn:uuid:" + GOOD,
    "upper case": GOOD.upper(),
    "one upper case digit": GOOD.replace("a1", "A1"),
    "without hyphens": GOOD.replace("-", ""),
    "hyphens elsewhere": "01a1eb654-c00-7abc-8def-0123456789ab",
    "version 1": GOOD.replace("-7", "-1"),
    "version 4": GOOD.replace("-7", "-4"),
    "wrong variant": GOOD.replace("-8def", "-cdef"),
    "nil": "00000000-0000-0000-0000-000000000000",
    "newline behind": GOOD + "\n",
    "newline before": "\n" + GOOD,
    "NUL behind": GOOD + "\0",
    "space behind": GOOD + " ",
    "right-to-left override": "\u202e" + GOOD,
    "full-width digit": GOOD.replace("0", "\uff10", 1),
    "Arabic digit": GOOD.replace("0", "\u0660", 1),
    "Cyrillic a": GOOD.replace("a", "\u0430", 1),
    "slash": GOOD.replace("-", "/", 1),
    "empty": "",
    "too long": GOOD + "0",
}


@pytest.mark.attack(20)
@pytest.mark.parametrize("text", RESPELLED.values(), ids=RESPELLED)
def test_refuses_another_spelling_of_an_id(text: str) -> None:
    assert is_uuid7(GOOD)
    assert not is_uuid7(text)


INSTANCES = {
    "one letter": ("a", True),
    "digits": ("7", True),
    "dots and hyphens inside": ("build-1.eu.example.org", True),
    "63 characters": ("a" * 63, True),
    "64 characters": ("a" * 64, False),
    "empty": ("", False),
    "upper case": ("Build-1", False),
    "hyphen in front": ("-build", False),
    "dot in front": (".build", False),
    "dot behind": ("build.", False),
    "newline behind": ("build\n", False),
    "newline inside": ("bui\nld", False),
    "NUL": ("build\0", False),
    "slash": ("a/b", False),
    "parent": ("..", False),
    "underscore": ("a_b", False),
    "colon": ("a:b", False),
    "tilde": ("a~1", False),
    "space": ("a b", False),
    "homoglyph": ("hub-\u0435u", False),
    "right-to-left override": ("hub\u202e1", False),
    "zero-width joiner": ("hub\u200d1", False),
    "Kelvin sign": ("\u212a1", False),
    "superscript": ("hub\u00b2", False),
}


@pytest.mark.parametrize(("text", "good"), INSTANCES.values(), ids=INSTANCES)
def test_instance_ids(text: str, good: bool) -> None:
    assert is_instance_id(text) == good


@pytest.mark.parametrize("pattern", [INSTANCE_ID_PATTERN, UUID7_PATTERN, TASK_ID_PATTERN])
def test_patterns_are_anchored_at_both_ends(pattern: str) -> None:
    assert pattern.startswith("^")
    assert pattern.endswith("$")


def test_rfc3339_is_utc_with_milliseconds() -> None:
    assert rfc3339(1795334400000) == "2026-11-22T08:00:00.000Z"
    assert rfc3339(1795334400007) == "2026-11-22T08:00:00.007Z"
    assert rfc3339(0) == "1970-01-01T00:00:00.000Z"


@given(st.integers(0, 253402300799999))
def test_rfc3339_never_loses_a_millisecond(epoch_ms: int) -> None:
    text = rfc3339(epoch_ms)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", text)
    moment = datetime.fromisoformat(text)
    assert (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1) == epoch_ms
