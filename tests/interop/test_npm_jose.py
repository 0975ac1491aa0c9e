"""npm's jose, the library a peer in JavaScript would use, reads what we sign and signs what we read."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from common.envelope import Claims, EnvelopeType, seal, verify
from common.jose import encode_base64url, sign_compact
from tests.envelopes import HUB_KEY, NOW_S, bodies, claims, command, header, sign, spoke_trust
from tests.interop.conftest import Node

PUBLIC_JWK = HUB_KEY.public.to_jwk()
PRIVATE_JWK = {**PUBLIC_JWK, "d": encode_base64url(bytes([1]) * 32).decode()}
PAYLOADS = [b"x", b"\0\xff", b"abc", json.dumps(command()).encode(), bytes(range(256)) * 3000]


def ask(node: Node, jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    output, _ = node("jose_peer.mjs").communicate(json.dumps(jobs), timeout=30)
    answers: list[dict[str, Any]] = json.loads(output)
    return answers


def test_it_verifies_what_we_sign(node: Node) -> None:
    payloads = {typ: json.dumps({**claims(), **bodies()[typ]}).encode() for typ in EnvelopeType}
    signed = [(typ.value, payload, sign_compact(HUB_KEY, typ, payload)) for typ, payload in payloads.items()]
    signed += [("command+jwt", payload, sign_compact(HUB_KEY, "command+jwt", payload)) for payload in PAYLOADS]
    answers = ask(node, [{"job": "verify", "jwk": PUBLIC_JWK, "jws": raw.decode()} for _, _, raw in signed])
    for (typ, payload, _), answer in zip(signed, answers, strict=True):
        assert answer["value"]["header"] == header(typ)
        assert base64.b64decode(answer["value"]["payload"]) == payload


def test_it_reads_our_envelopes(node: Node) -> None:
    ours = [seal(HUB_KEY, typ, Claims(**claims()), bodies()[typ]) for typ in EnvelopeType]
    answers = ask(node, [{"job": "verify", "jwk": PUBLIC_JWK, "jws": raw.decode()} for raw in ours])
    for typ, answer in zip(EnvelopeType, answers, strict=True):
        assert json.loads(base64.b64decode(answer["value"]["payload"])) == {**claims(), **bodies()[typ]}


def test_we_take_what_it_signs(node: Node) -> None:
    jobs = [
        {
            "job": "sign",
            "jwk": PRIVATE_JWK,
            "header": header(typ.value),
            "payload": base64.b64encode(json.dumps({**claims(), **bodies()[typ]}).encode()).decode(),
        }
        for typ in EnvelopeType
    ]
    for typ, answer in zip(EnvelopeType, ask(node, jobs), strict=True):
        envelope = verify(answer["value"].encode(), spoke_trust().keyring, NOW_S)
        assert envelope.typ is typ
        assert envelope.claims == Claims(**claims())


def test_it_names_our_keys_as_we_do(node: Node) -> None:
    rfc_8037 = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
    answers = ask(node, [{"job": "thumbprint", "jwk": jwk} for jwk in (PUBLIC_JWK, rfc_8037)])
    assert [answer["value"] for answer in answers] == [HUB_KEY.kid, "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"]


@pytest.mark.parametrize("alg", ["EdDSA", "none"])
def test_it_refuses_what_we_refuse(node: Node, alg: str) -> None:
    good, other = sign(command()), sign(command(aud="build-2"))
    mixed = good.rpartition(b".")[0] + b"." + other.rpartition(b".")[2]
    asked = [mixed, sign(command(), head=header(alg=alg))]
    answers = ask(node, [{"job": "verify", "jwk": PUBLIC_JWK, "jws": raw.decode()} for raw in asked])
    assert [answer["error"] for answer in answers] == [
        "ERR_JWS_SIGNATURE_VERIFICATION_FAILED",
        "ERR_JOSE_ALG_NOT_ALLOWED",
    ]
