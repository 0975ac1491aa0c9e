"""The rows of the attack table that end in the codec: nothing here needs a node.

Every case is an envelope that is good but for the one thing its name says. `verify` is all that stands between these
bytes and whatever acts, and it either returns a `VerifiedEnvelope` or raises: nothing can have changed.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

import pytest

from common.envelope import verify
from common.errors import EnvelopeRejected
from common.jose import MAX_ENVELOPE_BYTES, encode_base64url
from tests.envelopes import HUB_KEY, NOW_S, OTHER_KEY, command, header, sign, spawn, spoke_trust

RING = spoke_trust().keyring
GOOD = sign(command())
HEADER, PAYLOAD, SIGNATURE = GOOD.split(b".")
ONE_BODY = "the signature does not verify with a key known for the sender"


def rejected(raw: bytes, code: str) -> None:
    with pytest.raises(EnvelopeRejected) as refused:
        verify(raw, RING, NOW_S)
    assert refused.value.code == code
    assert len(refused.value.message) < 200
    if code == "bad_signature":
        assert refused.value.message == ONE_BODY


def test_the_envelope_that_all_cases_start_from_is_good() -> None:
    assert len(verify(GOOD, RING, NOW_S).commands) == 1


def joined(*parts: bytes) -> bytes:
    return b".".join(parts)


def unsigned(**changes: Any) -> bytes:
    return encode_base64url(json.dumps(header(**changes)).encode()) + b"." + PAYLOAD


@pytest.mark.attack(1)
@pytest.mark.parametrize("alg", ["none", "NONE", "None", "nOnE", "", None, ...], ids=repr)
@pytest.mark.parametrize("signature", [b"", SIGNATURE], ids=["unsigned", "with a signature"])
def test_alg_none(alg: Any, signature: bytes) -> None:
    rejected(joined(unsigned(alg=alg), signature), "bad_signature")


@pytest.mark.attack(1)
def test_alg_none_over_a_right_signature() -> None:
    rejected(sign(command(), head=header(alg="none")), "bad_signature")


@pytest.mark.attack(2)
@pytest.mark.parametrize(
    "secret",
    [
        HUB_KEY.public.raw,
        encode_base64url(HUB_KEY.public.raw),
        HUB_KEY.kid.encode(),
        json.dumps(HUB_KEY.public.to_jwk()).encode(),
    ],
    ids=["raw key", "base64url key", "kid", "JWK"],
)
@pytest.mark.parametrize("alg", ["HS256", "Ed25519"])
def test_hmac_with_our_public_key(secret: bytes, alg: str) -> None:
    signing_input = unsigned(alg=alg)
    mac = hmac.digest(secret, signing_input, hashlib.sha256)
    rejected(joined(signing_input, encode_base64url(mac)), "bad_signature")


@pytest.mark.attack(3)
@pytest.mark.attack(4)
@pytest.mark.parametrize(
    "alg", ["EdDSA", "ES256", "RS256", "PS256", "ES256K", "Ed448", "ed25519", "Ed25519 ", ["Ed25519"]], ids=repr
)
def test_another_alg_over_a_right_ed25519_signature(alg: Any) -> None:
    rejected(sign(command(), head=header(alg=alg)), "bad_signature")


@pytest.mark.attack(5)
@pytest.mark.parametrize("key", [HUB_KEY, OTHER_KEY], ids=["of the peer", "of a stranger"])
@pytest.mark.parametrize("member", ["jwk", "x5c", "x5t", "x5t#S256"])
def test_a_key_in_the_header(member: str, key: Any) -> None:
    of_key: dict[str, Any] = {member: key.public.to_jwk() if member == "jwk" else ["MIIB"]}
    rejected(sign(command(), key=key, head=header(key=key, **of_key)), "malformed")
    rejected(sign(command(), key=key, head=header(**of_key)), "malformed")


@pytest.mark.attack(6)
@pytest.mark.parametrize("member", ["jku", "x5u"])
def test_a_key_by_address_is_malformed_and_the_core_cannot_connect(member: str) -> None:
    by_address: dict[str, Any] = {member: "http://127.0.0.1:1/keys.json"}
    rejected(sign(command(), head=header(**by_address)), "malformed")


KIDS: dict[str, str] = {
    "traversal": "../../etc/passwd",
    "device": "/dev/null",
    "NUL": "\0",
    "right one with NUL": HUB_KEY.kid + "\0",
    "right one with newline": HUB_KEY.kid + "\n",
    "right one with space": " " + HUB_KEY.kid,
    "right one in lower case": HUB_KEY.kid.lower(),
    "right one cut": HUB_KEY.kid[:-1],
    "empty": "",
    "glob": "*",
    "hash tag": "{x}",
    "key parts": "a:b",
    "quote": "' OR '1'='1",
    "100 kB": "k" * 100_000,
    "bidi": "\u202e" + HUB_KEY.kid,
    "of a stranger": OTHER_KEY.kid,
}


@pytest.mark.attack(7)
@pytest.mark.attack(8)
@pytest.mark.parametrize("kid", KIDS.values(), ids=KIDS)
def test_kid(kid: str) -> None:
    rejected(sign(command(), head=header(kid=kid)), "bad_signature")


@pytest.mark.attack(9)
@pytest.mark.parametrize("crit", [[], ["b64"], ["bork"], ["alg"], None, "b64"], ids=repr)
def test_crit(crit: Any) -> None:
    rejected(sign(command(), head=header(crit=crit)), "malformed")


@pytest.mark.attack(10)
@pytest.mark.parametrize("b64", [False, True])
@pytest.mark.parametrize("crit", [["b64"], ...], ids=["critical", "not critical"])
def test_unencoded_payload(b64: bool, crit: Any) -> None:
    head = header(b64=b64, crit=crit)
    rejected(sign(command(), head=head), "malformed")
    payload = json.dumps(command()).encode()
    signing_input = encode_base64url(json.dumps(head).encode()) + b"." + payload
    rejected(joined(signing_input, encode_base64url(HUB_KEY.sign(signing_input))), "malformed")


FLATTENED = {"payload": PAYLOAD.decode(), "protected": HEADER.decode(), "signature": SIGNATURE.decode()}
ONE_OF_GENERAL = {"protected": HEADER.decode(), "signature": SIGNATURE.decode()}
SERIALIZATIONS: dict[str, Any] = {
    "flattened": FLATTENED,
    "flattened with an unprotected header": {**FLATTENED, "header": header()},
    "general": {"payload": PAYLOAD.decode(), "signatures": [ONE_OF_GENERAL]},
    "general with two signatures": {"payload": PAYLOAD.decode(), "signatures": [ONE_OF_GENERAL] * 2},
    "compact in a string": GOOD.decode(),
    "compact in an array": [GOOD.decode()],
}


@pytest.mark.attack(11)
@pytest.mark.parametrize("content", SERIALIZATIONS.values(), ids=SERIALIZATIONS)
def test_json_serialization(content: Any) -> None:
    rejected(json.dumps(content).encode(), "malformed")


PARTS = {
    "none": (b"", "malformed"),
    "one": (HEADER, "malformed"),
    "two": (joined(HEADER, PAYLOAD), "malformed"),
    "four": (joined(GOOD, b""), "malformed"),
    "four, one of them good": (joined(GOOD, SIGNATURE), "malformed"),
    "five, like a JWE": (joined(GOOD, SIGNATURE, SIGNATURE), "malformed"),
    "two signatures": (joined(HEADER, PAYLOAD, SIGNATURE, SIGNATURE), "malformed"),
    "detached payload": (joined(HEADER, b"", SIGNATURE), "malformed"),
    "no header": (joined(b"", PAYLOAD, SIGNATURE), "malformed"),
    "only dots": (b"..", "malformed"),
    "empty signature": (joined(HEADER, PAYLOAD, b""), "bad_signature"),
    "two good envelopes": (GOOD + GOOD, "malformed"),
    "two good envelopes, on two lines": (GOOD + b"\n" + GOOD, "malformed"),
    "a thousand dots": (b"." * 1000, "malformed"),
}


@pytest.mark.attack(12)
@pytest.mark.parametrize(("raw", "code"), PARTS.values(), ids=PARTS)
def test_part_count(raw: bytes, code: str) -> None:
    rejected(raw, code)


@pytest.mark.attack(13)
@pytest.mark.parametrize("member", ["alg", "kid", "typ"])
@pytest.mark.parametrize("first", ["none", "the same"])
def test_a_member_twice_in_the_header(member: str, first: str) -> None:
    of_header = header()
    other = of_header[member] if first == "the same" else first
    raw = json.dumps(of_header)[:-1] + f', "{member}": {json.dumps(other)}}}'
    assert json.loads(raw).keys() == of_header.keys()
    rejected(sign(command(), head=raw.encode()), "malformed")
    raw = f'{{"{member}": {json.dumps(other)}, ' + json.dumps(of_header)[1:]
    rejected(sign(command(), head=raw.encode()), "malformed")


@pytest.mark.attack(14)
def test_only_the_bytes_that_were_verified_are_parsed() -> None:
    evil = encode_base64url(json.dumps(command(spawn(taskId="evil"))).encode())
    rejected(joined(HEADER, evil, SIGNATURE), "bad_signature")
    envelope = verify(GOOD, RING, NOW_S)
    assert envelope.raw == GOOD


L = 2**252 + 27742317777372353535851937790883648493


@pytest.mark.attack(15)
@pytest.mark.parametrize("times", range(1, 9))
def test_s_out_of_range(times: int) -> None:
    signing_input, _, _ = GOOD.rpartition(b".")
    good = HUB_KEY.sign(signing_input)
    s = int.from_bytes(good[32:], "little") + times * L
    malleable = good[:32] + s.to_bytes(32, "little")
    rejected(joined(signing_input, encode_base64url(malleable)), "bad_signature")


@pytest.mark.attack(18)
@pytest.mark.parametrize("count", [0, 1, 32, 63, 65, 96, 128, 1000])
def test_signature_length(count: int) -> None:
    signing_input, _, _ = GOOD.rpartition(b".")
    good = HUB_KEY.sign(signing_input)
    rejected(joined(signing_input, encode_base64url((good * 16)[:count])), "bad_signature")


def with_slack(part: bytes) -> bytes:
    """The same bytes spelled with another last character, where the part has slack bits."""
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    assert len(part) % 4
    return part[:-1] + alphabet[alphabet.index(part[-1]) + 1 :][:1]


SLACK = {
    "slack bits in the signature": joined(HEADER, PAYLOAD, with_slack(SIGNATURE)),
    "padded signature": GOOD + b"==",
    "padded payload": joined(HEADER, PAYLOAD + b"=", SIGNATURE),
    "padded header": joined(HEADER + b"=", PAYLOAD, SIGNATURE),
    "standard alphabet": joined(HEADER, PAYLOAD, b"+/" + SIGNATURE[2:]),
    "newline behind": GOOD + b"\n",
    "newline before": b"\n" + GOOD,
    "carriage return": GOOD + b"\r\n",
    "space behind": GOOD + b" ",
    "space before": b" " + GOOD,
    "newline in a part": joined(HEADER, PAYLOAD[:8] + b"\n" + PAYLOAD[8:], SIGNATURE),
    "NUL behind": GOOD + b"\0",
    "BOM": b"\xef\xbb\xbf" + GOOD,
    "percent encoding": GOOD.replace(b".", b"%2E"),
    "UTF-16": GOOD.decode().encode("utf-16-le"),
}


@pytest.mark.attack(19)
@pytest.mark.parametrize("raw", SLACK.values(), ids=SLACK)
def test_base64url_slack(raw: bytes) -> None:
    rejected(raw, "malformed")


@pytest.mark.attack(19)
@pytest.mark.parametrize("spaces", [0, 1, 2])
def test_slack_bits_in_a_part_that_was_signed_so(spaces: int) -> None:
    payload = encode_base64url(json.dumps(command()).encode() + b" " * spaces)
    if len(payload) % 4 == 0:
        return
    signing_input = HEADER + b"." + with_slack(payload)
    rejected(joined(signing_input, encode_base64url(HUB_KEY.sign(signing_input))), "malformed")


@pytest.mark.attack(41)
def test_oversize_is_refused_before_anything_is_decoded() -> None:
    rejected(b"\xff" * (MAX_ENVELOPE_BYTES + 1), "too_large")
    rejected(GOOD + b"A" * MAX_ENVELOPE_BYTES, "too_large")


@pytest.mark.attack(29)
@pytest.mark.parametrize(
    "typ",
    ["", "JWT", "jwt", "command", "COMMAND+JWT", "application/command+jwt", "command+jwt\n", "command+jwt\0", "at+jwt"],
)
def test_a_type_that_is_none_of_ours(typ: str) -> None:
    rejected(sign(command(), typ=typ), "malformed")


@pytest.mark.attack(27)
@pytest.mark.parametrize("iss", ["hub-us", "build-1", "hub-e", "hub-eu.example.org"])
def test_an_issuer_that_does_not_own_the_key(iss: str) -> None:
    rejected(sign(command(iss=iss)), "bad_signature")
