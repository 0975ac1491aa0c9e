from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import strict_json
from common.errors import BadSignature, EnvelopeRejected, LocalError, Malformed
from common.jose import MAX_ENVELOPE_BYTES, decode_base64url, encode_base64url, parse_compact, sign_compact
from tests.envelopes import HUB_KEY, OTHER_KEY, header, sign


@given(st.binary(max_size=200))
def test_base64url_round_trip_and_agreement_with_the_standard_library(raw: bytes) -> None:
    text = encode_base64url(raw)
    assert text == base64.urlsafe_b64encode(raw).rstrip(b"=")
    assert decode_base64url(text) == raw


@given(st.binary(max_size=12) | st.text("AQgw-_+/= \n", max_size=12).map(str.encode))
def test_base64url_has_one_spelling_for_each_value(text: bytes) -> None:
    try:
        raw = decode_base64url(text)
    except Malformed:
        return
    assert encode_base64url(raw) == text


NOT_BASE64URL = {
    "one character": b"A",
    "five characters": b"AAAAA",
    "padding": b"QQ==",
    "one padding": b"QUI=",
    "only padding": b"====",
    "slack bits of two": b"QR",
    "slack bits of three": b"QUJ",
    "plus": b"+AAA",
    "slash": b"/AAA",
    "newline behind": b"QUJD\n",
    "newline inside": b"QU\nJD",
    "space": b"QU JD",
    "carriage return": b"QUJD\r",
    "tab": b"\tQUJD",
    "NUL": b"QUJD\0",
    "high byte": b"QUJ\xff",
    "full-width letter": "\uff21AAA".encode(),
}


@pytest.mark.attack(19)
@pytest.mark.parametrize("text", NOT_BASE64URL.values(), ids=NOT_BASE64URL)
def test_refuses_what_is_not_the_canonical_base64url(text: bytes) -> None:
    with pytest.raises(Malformed):
        decode_base64url(text)


def test_what_is_signed_is_parsed_to_the_same_parts() -> None:
    jws = parse_compact(sign_compact(HUB_KEY, "command+jwt", b'{"a":1}'))
    assert (jws.kid, jws.typ, jws.payload) == (HUB_KEY.kid, "command+jwt", b'{"a":1}')
    assert jws.verify(HUB_KEY.public) == b'{"a":1}'


def test_the_header_is_the_three_members_of_the_protocol() -> None:
    raw = sign_compact(HUB_KEY, "event+jwt", b"{}")
    of_header = strict_json.parse(decode_base64url(raw.split(b".")[0]))
    assert of_header == {"alg": "Ed25519", "kid": HUB_KEY.kid, "typ": "event+jwt"}


def test_the_payload_comes_out_of_verify_only_for_the_key_that_signed() -> None:
    jws = parse_compact(sign(b"{}"))
    with pytest.raises(BadSignature):
        jws.verify(OTHER_KEY.public)


def test_what_is_verified_is_the_bytes_that_came_and_not_a_new_encoding() -> None:
    spaced = b'{ "typ" : "x" ,\n"kid":"k","alg":"\\u0045d25519" }'
    jws = parse_compact(sign(b"{}", head=spaced))
    assert jws.signing_input.startswith(encode_base64url(spaced) + b".")
    jws.verify(HUB_KEY.public)


def code_of(raw: bytes) -> str:
    with pytest.raises(EnvelopeRejected) as refused:
        parse_compact(raw)
    return refused.value.code


HEADERS = {
    "not an object": (b"[]", "malformed"),
    "a string": (b'"alg"', "malformed"),
    "not JSON": (b"{", "malformed"),
    "no kid": (header(kid=...), "malformed"),
    "no typ": (header(typ=...), "malformed"),
    "kid a number": (header(kid=1), "malformed"),
    "kid null": (header(kid=None), "malformed"),
    "kid a list": (header(kid=["k"]), "malformed"),
    "typ a number": (header(typ=1), "malformed"),
    "unknown member": (header(cty="json"), "malformed"),
    "member in other case": (header(Alg="Ed25519"), "malformed"),
    "no alg": (header(alg=...), "bad_signature"),
    "alg in other case": (header(alg="ed25519"), "bad_signature"),
    "alg with a newline": (header(alg="Ed25519\n"), "bad_signature"),
    "alg null": (header(alg=None), "bad_signature"),
    "alg a list": (header(alg=["Ed25519"]), "bad_signature"),
    "alg true": (header(alg=True), "bad_signature"),
}


@pytest.mark.parametrize(("head", "code"), HEADERS.values(), ids=HEADERS)
def test_headers(head: bytes | dict[str, object], code: str) -> None:
    assert code_of(sign(b"{}", head=head)) == code


def test_the_size_limit_is_exact() -> None:
    raw = sign(b" " * 786_000)
    assert len(raw) < MAX_ENVELOPE_BYTES
    # At the limit only the shape is wrong, one byte over it the size is.
    assert code_of(raw.ljust(MAX_ENVELOPE_BYTES, b"=")) == "malformed"
    assert code_of(raw.ljust(MAX_ENVELOPE_BYTES + 1, b"=")) == "too_large"


def test_never_signs_what_every_peer_must_refuse() -> None:
    largest = (MAX_ENVELOPE_BYTES - len(sign_compact(HUB_KEY, "x", b""))) // 4 * 3
    assert len(sign_compact(HUB_KEY, "x", b" " * largest)) <= MAX_ENVELOPE_BYTES
    with pytest.raises(LocalError, match="over the limit"):
        sign_compact(HUB_KEY, "x", b" " * (largest + 3))


def outcome_of(raw: bytes) -> str:
    try:
        parse_compact(raw)
    except EnvelopeRejected as rejected:
        return rejected.code
    return "parsed"


@given(st.binary(max_size=80))
def test_the_parser_raises_only_rejections(raw: bytes) -> None:
    assert outcome_of(raw) in {"malformed", "bad_signature"}


header_members = st.dictionaries(
    st.sampled_from(["alg", "kid", "typ", "crit"]), st.sampled_from(["Ed25519", "none", 1, None])
)


@given(header_members.map(strict_json.encode) | st.binary(max_size=40), st.lists(st.binary(max_size=40), max_size=3))
def test_the_parser_raises_only_rejections_behind_good_base64url(head: bytes, parts: list[bytes]) -> None:
    raw = b".".join(map(encode_base64url, [head, *parts]))
    assert outcome_of(raw) in {"malformed", "bad_signature", "parsed"}


def test_an_envelope_of_exactly_the_largest_size_is_signed_and_read() -> None:
    # No three bytes of payload make one character: the type is as long as it takes.
    sizes = {
        len(raw): raw
        for length in range(1, 5)
        for raw in [sign_compact(HUB_KEY, "x" * length, b" " * largest_payload("x" * length))]
    }
    assert parse_compact(sizes[MAX_ENVELOPE_BYTES]).kid == HUB_KEY.kid


def largest_payload(typ: str) -> int:
    return (MAX_ENVELOPE_BYTES - len(sign_compact(HUB_KEY, typ, b""))) * 3 // 4
