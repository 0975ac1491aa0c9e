from __future__ import annotations

import base64
import json

import pytest

from hub.feed import Change
from hub.webhook import Message, Webhook, of_change, of_gap, of_test, show_secret, sign, waves


def change(number: int = 1, agent: str = "a", status: str = "running", spoke: str = "build-1") -> Change:
    return Change(f"1795000000000-{number}", agent, spoke, "T-1", status, number, "delivered", None)


def webhook(events: tuple[str, ...] = (), spokes: tuple[str, ...] = ()) -> Webhook:
    return Webhook("w", "https://ci.example.org/hook", events, spokes, "0-0", 0)


def test_a_signature_is_the_one_of_the_standards_own_example() -> None:
    secret = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    headers = sign([secret], Message("msg_p5jXN8AQM9LWM0D4loKWxJek", b'{"test": 2432232314}'), 1614265330)
    assert headers == {
        "Webhook-Id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "Webhook-Timestamp": "1614265330",
        "Webhook-Signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    assert show_secret(secret) == "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def test_any_change_of_what_is_signed_changes_the_signature() -> None:
    signatures = {
        sign([secret], Message(message_id, body), at)["Webhook-Signature"]
        for secret, message_id, body, at in [
            (b"s", "1-0", b"{}", 5), (b"t", "1-0", b"{}", 5), (b"s", "1-1", b"{}", 5), (b"s", "1-0", b"{ }", 5),
            (b"s", "1-0", b"{}", 6),
        ]
    }  # fmt: skip
    assert len(signatures) == 5


def test_by_two_secrets_there_are_two_signatures_in_their_order() -> None:
    message = Message("1-0", b"{}")
    one, two = (sign([secret], message, 5)["Webhook-Signature"] for secret in (b"s", b"t"))
    assert sign([b"s", b"t"], message, 5)["Webhook-Signature"] == f"{one} {two}"


WANTS = {
    "everything": (webhook(), change(), True),
    "the event": (webhook(("failed", "running")), change(), True),
    "another event": (webhook(("failed",)), change(), False),
    "the spoke": (webhook((), ("build-1",)), change(), True),
    "another spoke": (webhook((), ("build-2",)), change(), False),
    "the event of another spoke": (webhook(("running",), ("build-2",)), change(), False),
}


@pytest.mark.parametrize(("hook", "told", "wanted"), WANTS.values(), ids=WANTS)
def test_what_is_wanted(hook: Webhook, told: Change, wanted: bool) -> None:
    assert hook.wants(told) is wanted


def test_messages_tell_what_when_and_under_which_id() -> None:
    message = of_change(change())
    assert message.message_id == "1795000000000-1"
    told = json.loads(message.body)
    assert (told["type"], told["timestamp"], told["data"]) == (
        "agent.running", "2026-11-18T11:06:40.000Z", change().to_view(),
    )  # fmt: skip
    assert of_change(change()) == message
    gap, trial = of_gap("5-0", 0), of_test("x", 0, "w")
    assert (gap.message_id, json.loads(gap.body)["data"]) == ("gap_5-0", {"after": "5-0"})
    assert (trial.message_id, json.loads(trial.body)["type"]) == ("test_x", "webhook.test")


def test_no_change_overtakes_another_of_its_agent() -> None:
    told = [change(number, agent) for number, agent in enumerate("abcabcddaa", 1)]
    parted = list(waves(told, 4))
    assert [entry for wave in parted for entry in wave] == told
    assert ["".join(entry.agent_id for entry in wave) for wave in parted] == ["abc", "abcd", "da", "a"]
    assert [len(wave) for wave in waves([change(1, str(number)) for number in range(10)], 4)] == [4, 4, 2]
    assert list(waves([], 4)) == []
