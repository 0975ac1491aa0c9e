from __future__ import annotations

from collections.abc import Callable

import pytest

from common.errors import (
    COMMAND_RETRYABLE,
    ENVELOPE_STATUS,
    BadSignature,
    CommandRefused,
    EnvelopeRejected,
    HubspokeError,
    Invalid,
    LocalError,
    Malformed,
    NotAllowed,
    PeerError,
    RateLimited,
    Unavailable,
)

CASES: dict[str, tuple[HubspokeError, str, int, bool]] = {
    "root": (HubspokeError("x"), "internal", 500, False),
    "local": (LocalError("x"), "local", 500, False),
    "local with a code": (LocalError("x", code="key_file"), "key_file", 500, False),
    "unavailable": (Unavailable("x"), "unavailable", 503, True),
    "malformed": (Malformed("x"), "malformed", 400, False),
    "bad signature": (BadSignature("why"), "bad_signature", 401, False),
    "rate": (RateLimited("x", retry_after_s=7), "rate_limited", 429, True),
    "refused": (CommandRefused("quota_exceeded", "x"), "quota_exceeded", 409, True),
    "invalid": (Invalid("x"), "invalid", 400, False),
    "not allowed": (NotAllowed("x"), "not_allowed", 403, False),
}


@pytest.mark.parametrize(("error", "code", "status", "retryable"), CASES.values(), ids=CASES)
def test_an_error_says_its_code_its_status_and_whether_to_retry(
    error: HubspokeError, code: str, status: int, retryable: bool
) -> None:
    assert (error.code, error.http_status, error.retryable) == (code, status, retryable)
    assert str(error) == error.message


# PROTOCOL section 3.
STATUS = {
    400: {"malformed"},
    401: {"bad_signature"},
    403: {"wrong_audience", "expired", "not_yet_valid", "connection_inactive", "wrong_direction"},
    408: {"too_slow"},
    409: {"replayed"},
    413: {"too_large"},
    415: {"unsupported_media_type"},
}


def test_the_status_of_each_rejection_is_that_of_the_protocol() -> None:
    assert {code: status for status, codes in STATUS.items() for code in codes} == ENVELOPE_STATUS
    for code, status in ENVELOPE_STATUS.items():
        assert EnvelopeRejected(code, "x").http_status == status


def test_a_code_that_the_protocol_does_not_know_cannot_be_raised() -> None:
    for make in (EnvelopeRejected, CommandRefused):
        with pytest.raises(KeyError):
            make("whatever", "x")


def test_the_codes_of_commands_are_those_of_the_protocol() -> None:
    assert set(COMMAND_RETRYABLE) == {
        "conflict", "stale", "killed", "not_found", "not_allowed",
        "quota_exceeded", "queue_full", "frozen", "draining", "invalid",
    }  # fmt: skip


def test_a_bad_signature_says_the_same_for_every_reason() -> None:
    one, other = BadSignature("the key id is unknown"), BadSignature("alg is not Ed25519")
    assert str(one) == str(other)
    assert one.reason != other.reason


def test_the_families_are_apart() -> None:
    assert issubclass(EnvelopeRejected, PeerError)
    assert not issubclass(LocalError, PeerError)
    assert not issubclass(Unavailable, PeerError | LocalError)


def test_what_goes_with_an_error() -> None:
    assert Unavailable("x", retry_after_s=5, code="store").retry_after_s == 5
    assert RateLimited("x").retry_after_s == 1
    assert EnvelopeRejected("expired", "x", extra={"now": 1}).extra == {"now": 1}
    assert dict(LocalError("x").extra) == {}
    away = Unavailable("x", code="store", extra={"what": "disk"})
    assert (away.code, away.retry_after_s, dict(away.extra)) == ("store", 1, {"what": "disk"})


@pytest.mark.parametrize("kind", [Unavailable, RateLimited, Invalid, NotAllowed, Malformed, LocalError])
def test_what_happened_is_in_the_message(kind: Callable[[str], HubspokeError]) -> None:
    assert kind("the disk is full").message == str(kind("the disk is full")) == "the disk is full"
