from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoke.supervision.masking import MASK, Masker

SECRET = "sk-abcabd"  # its beginning comes again within it


def masked(secrets: list[str], chunks: list[bytes]) -> bytes:
    masker = Masker(secrets)
    return b"".join([*map(masker.feed, chunks), masker.flush()])


@pytest.mark.attack(63)
@given(st.lists(st.integers(1, 12)), st.binary(max_size=20), st.binary(max_size=20))
def test_a_secret_is_masked_however_the_output_is_cut(cuts: list[int], before: bytes, after: bytes) -> None:
    text, chunks = before + SECRET.encode() + after + SECRET.encode(), []
    for cut in cuts:
        chunks.append(text[:cut])
        text = text[cut:]
    whole = b"".join([*chunks, text])
    assert masked([SECRET], [*chunks, text]) == whole.replace(SECRET.encode(), MASK)


def test_the_longer_secret_counts() -> None:
    assert masked(["secret-1", "secret-12"], [b"a secret-", b"12 and secret-1"]) == b"a [masked] and [masked]"


def test_nothing_is_held_back_without_a_reason() -> None:
    masker = Masker([SECRET])
    assert masker.feed(b"all clear") == b"all clear"
    assert masker.feed(b"not yet sk-a") == b"not yet "
    assert masker.feed(b"!") == b"sk-a!"


def test_what_is_too_short_is_no_secret() -> None:
    masker = Masker(["", "1", "abcde"])
    assert (masker.feed(b"1abcde"), masker.flush()) == (b"1abcde", b"")
