"""What a node and a machine say to each other: only the next frame of this session, by the other side, is believed."""

from __future__ import annotations

from typing import Any

import pytest

from common import strict_json
from common.errors import EnvelopeRejected
from common.jose import sign_compact
from common.keyring import KeyRefused
from spoke.machines.frames import (
    FRAME_TYPE,
    HELLO_TYPE,
    Answer,
    Ask,
    Hello,
    Session,
    fresh_nonce,
    open_hello,
    parse_signed,
    read_body,
    read_challenge,
    seal_hello,
)
from spoke.machines.registry import read_key, write_key
from tests.envelopes import key_of

NODE, MACHINE = key_of(1), key_of(2)
NAME = "one session"


def pair() -> tuple[Session, Session]:
    return Session(NODE, MACHINE.public, NAME), Session(MACHINE, NODE.public, NAME)


def test_frames_go_both_ways_in_their_order() -> None:
    node, machine = pair()
    for number in range(3):
        assert machine.open(node.seal({"ask": number})) == {"ask": number}
        assert node.open(machine.seal({"answer": number})) == {"answer": number}


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (Session(NODE, MACHINE.public, "another").seal({}), "replayed"),
        (Session(NODE, key_of(3).public, NAME).seal({}), "replayed"),
        (Session(NODE, MACHINE.public, NAME, sent=1).seal({}), "replayed"),
        (Session(MACHINE, NODE.public, NAME).seal({}), "bad_signature"),
        (Session(key_of(3), MACHINE.public, NAME).seal({}), "bad_signature"),
        (sign_compact(NODE, HELLO_TYPE, b"{}"), "malformed"),
        (sign_compact(NODE, FRAME_TYPE, b"{}"), "malformed"),
        (b"nothing", "malformed"),
    ],
)
def test_any_other_frame_is_refused(raw: bytes, code: str) -> None:
    _, machine = pair()
    with pytest.raises(EnvelopeRejected) as refused:
        machine.open(raw)
    assert refused.value.code == code
    assert machine.taken == 0


def test_a_changed_frame_is_refused() -> None:
    node, machine = pair()
    head, payload, signature = node.seal({"ask": 1}).split(b".")
    other = Session(NODE, MACHINE.public, NAME).seal({"ask": 2}).split(b".")[1]
    with pytest.raises(EnvelopeRejected):
        machine.open(b".".join((head, other, signature)))
    assert machine.open(b".".join((head, payload, signature))) == {"ask": 1}


def hello(**changes: Any) -> Hello:
    return Hello(**{"iss": "m1", "aud": "build-1", "nonce": "n" * 43, "challenge": "c" * 43, **changes})


def test_a_hello_answers_one_challenge_by_one_key() -> None:
    jws = parse_signed(seal_hello(MACHINE, hello()), HELLO_TYPE)
    assert open_hello(jws, MACHINE.public, "n" * 43) == hello()
    for key, nonce, code in ((MACHINE, "x" * 43, "replayed"), (NODE, "n" * 43, "bad_signature")):
        with pytest.raises(EnvelopeRejected) as refused:
            open_hello(jws, key.public, nonce)
        assert refused.value.code == code
    unread = parse_signed(sign_compact(MACHINE, HELLO_TYPE, b"{}"), HELLO_TYPE)
    with pytest.raises(EnvelopeRejected, match="no HELLO"):
        open_hello(unread, MACHINE.public, "n" * 43)


def test_a_challenge_is_fresh_and_nothing_else_is_one() -> None:
    nonce = fresh_nonce()
    assert nonce != fresh_nonce()
    assert read_challenge(strict_json.encode({"challenge": nonce})) == nonce
    with pytest.raises(EnvelopeRejected, match="is a challenge"):
        read_challenge(b"{}")


def test_a_body_is_a_question_or_an_answer() -> None:
    assert read_body({"ask": 1, "what": "rules", "about": {}}) == Ask(ask=1, what="rules", about={})
    assert read_body({"answer": 1, "told": {"a": 1}}) == Answer(answer=1, told={"a": 1})
    for body in ({}, {"ask": "1", "what": "x", "about": {}}, {"answer": 1, "else": 2}):
        with pytest.raises(EnvelopeRejected, match="a question or an answer"):
            read_body(body)


def test_a_key_is_carried_whole_and_never_looks_like_an_option() -> None:
    for seed in range(100):
        text = write_key(key_of(seed).public)
        assert text.startswith("ed25519:")
        assert read_key(f" {text}\n") == key_of(seed).public
    good = write_key(NODE.public)
    for bad in ("", good[:-1], good + "A", good.removeprefix("ed25519:"), "ed25519:" + "*" * 43, "ed25519:" + "A" * 43):
        with pytest.raises(KeyRefused):
            read_key(bad)
