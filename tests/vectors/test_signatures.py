from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from common.errors import BadSignature, EnvelopeRejected
from common.jose import decode_base64url, parse_compact
from common.keyring import KeyRefused, PublicKey

HERE = Path(__file__).parent


class Case(NamedTuple):
    key: bytes
    number: int
    flags: frozenset[str]
    signature: bytes
    message: bytes


def read(name: str) -> Iterator[Case]:
    key = b""
    for line in (HERE / name).read_text().splitlines():
        words = ["" if word == "-" else word for word in line.split(" ")]
        if words[0] == "key":
            key = bytes.fromhex(words[1])
        else:
            number, flags, signature, message = words
            yield Case(
                key,
                int(number),
                frozenset(flags.split(",")) - {""},
                bytes.fromhex(signature),
                bytes.fromhex(message),
            )


def verdict(case: Case) -> str:
    try:
        PublicKey(case.key).verify(case.signature, case.message)
    except KeyRefused:
        return "key_refused"
    except BadSignature:
        return "bad_signature"
    return "accepted"


@pytest.mark.attack(15)
@pytest.mark.attack(18)
def test_every_wycheproof_case_gets_its_published_result() -> None:
    cases = list(read("wycheproof_ed25519.txt"))
    assert len(cases) == 151
    wrong = [case.number for case in cases if (verdict(case) == "accepted") != ("valid" in case.flags)]
    assert wrong == []
    assert sum("SignatureMalleability" in case.flags for case in cases) == 8


def expected(case: Case) -> str:
    if "low_order_A" in case.flags:
        return "key_refused"
    return "bad_signature" if case.flags & {"low_order_residue", "non_canonical_R"} else "accepted"


@pytest.mark.attack(16)
@pytest.mark.attack(17)
def test_every_cctv_case_gets_the_verdict_the_readme_gives() -> None:
    cases = list(read("cctv_ed25519.txt"))
    assert [case.number for case in cases if verdict(case) != expected(case)] == []
    assert Counter(map(verdict, cases)) == {"key_refused": 526, "bad_signature": 302, "accepted": 86}


RFC_8037_X = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
RFC_8037_JWS = (
    b"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc"
    b".hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
)


@pytest.mark.attack(3)
def test_rfc_8037_appendix_a_the_signature_is_good_and_its_jws_is_none_of_ours() -> None:
    key = PublicKey(decode_base64url(RFC_8037_X.encode()))
    assert key.kid == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
    signing_input, _, signature = RFC_8037_JWS.rpartition(b".")
    key.verify(decode_base64url(signature), signing_input)
    with pytest.raises(EnvelopeRejected) as refused:
        parse_compact(RFC_8037_JWS)
    assert refused.value.code == "bad_signature"
