"""Webhooks of a running hub: added, tried, shown and removed by API and command line, and told over its deaths."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from common.errors import LocalError, Unavailable
from hub.api.webhook_models import AddedWebhookView, WebhookList, WebhookTestView, WebhookView
from hub.webhook import Webhook
from hub.webhook_store import MAX_SECRETS, MAX_WEBHOOKS, NoSuchWebhook, WebhookRefused, WebhookSecretLost, WebhookStore
from tests.integration.hub.hub_node import HubNode
from tests.integration.hub.receiver import Receiver
from tests.integration.hub.standin_spoke import StandinSpoke, new_id
from tests.spoke_node import eventually

ALL = "/api/v1/webhooks"


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as running:
        yield running


async def added(node: HubNode, receiver: Receiver, **members: Any) -> dict[str, Any]:
    status, view = await node.call("POST", ALL, {"url": receiver.url, **members})
    assert status == 201, view
    AddedWebhookView.model_validate(view)
    receiver.secrets.append(view["secret"])
    found: dict[str, Any] = view
    return found


async def until_state(node: HubNode, webhook_id: str, state: str) -> dict[str, Any]:
    async def reached() -> dict[str, Any] | None:
        _, view = await node.call("GET", f"{ALL}/{webhook_id}")
        WebhookView.model_validate(view)
        return view if view["state"] == state else None

    found: dict[str, Any] = await eventually(reached, f"{webhook_id} is {state}")
    return found


async def test_a_receiver_is_told_what_it_asked_for_signed_and_once(
    node: HubNode, spoke: StandinSpoke, receiver: Receiver
) -> None:
    view = await added(node, receiver, events=["queued", "completed"], spokes=[spoke.id])
    agent_id = await node.spawn(spoke.id)
    await node.until_delivery(agent_id, "delivered")
    await spoke.report(spoke.advance(agent_id, "running"))
    await spoke.report(spoke.advance(agent_id, "completed"))
    await eventually(lambda: len(receiver.told) == 2, "both")
    assert receiver.of(agent_id) == ["queued", "completed"]
    assert receiver.told[-1]["type"] == "agent.completed"
    assert {name: receiver.told[-1]["data"][name] for name in ("spoke", "taskId", "seq")} == {
        "spoke": spoke.id, "taskId": "T-1", "seq": 3,
    }  # fmt: skip
    assert receiver.forged == []
    shown = await until_state(node, view["id"], "active")
    assert shown["lastDeliveryAt"] is not None
    assert "secret" not in shown
    status, removed = await node.call("DELETE", f"{ALL}/{view['id']}")
    assert (status, removed) == (200, {"id": view["id"], "removed": True})
    assert (await node.call("GET", f"{ALL}/{view['id']}"))[0] == 404
    await node.spawn(spoke.id)
    assert len(receiver.came) == 2


@pytest.mark.slow
async def test_nothing_is_skipped_over_a_receivers_absence_and_the_hubs_death(
    tmp_path: Path, receiver: Receiver
) -> None:
    with HubNode(tmp_path) as own:
        async with StandinSpoke(own) as spoke:
            view = await added(own, receiver, events=["queued"])
            agents = [await own.spawn(spoke.id)]
            await eventually(lambda: receiver.of(agents[0]), "the first")
            await receiver.down()
            agents.append(await own.spawn(spoke.id))
            failing = await until_state(own, view["id"], "failing")
            assert failing["lastError"]["code"] == "unavailable"
            assert failing["failingSince"] <= failing["lastAttemptAt"] < failing["nextAttemptAt"]
            await own.kill9()
            await receiver.up()
            await own.restart()
            agents.append(await own.spawn(spoke.id))
            await eventually(lambda: all(map(receiver.of, agents)), "all of them")
    assert [receiver.of(agent_id) for agent_id in agents] == [["queued"]] * 3
    assert receiver.forged == []


async def test_a_receiver_that_is_gone_is_shown_as_given_up_until_it_is_resumed(
    node: HubNode, spoke: StandinSpoke, receiver: Receiver
) -> None:
    view = await added(node, receiver, spokes=[spoke.id], events=["queued"])
    receiver.answers.append(410)
    agent_id = await node.spawn(spoke.id)
    given_up = await until_state(node, view["id"], "disabled")
    assert (given_up["lastError"]["code"], given_up["nextAttemptAt"]) == ("http_status", None)
    assert given_up["disabledAt"] is not None
    assert node.log_lines("webhook.disabled", webhook=view["id"])
    assert await diagnosed(node) == (False, f"{view['id']} disabled: see hub webhook show")
    assert (await node.hub("webhook", "resume", view["id"])).returncode == 0
    await eventually(lambda: receiver.of(agent_id), "what it refused")
    await until_state(node, view["id"], "active")
    assert await diagnosed(node) == (True, "1, told up to now")
    await node.call("DELETE", f"{ALL}/{view['id']}")
    assert await diagnosed(node) == (True, "there are none")


async def diagnosed(node: HubNode) -> tuple[bool, str]:
    """What `hub doctor` says of webhooks."""
    findings = json.loads((await node.hub("doctor", "--json")).stdout)
    (found,) = [finding for finding in findings if finding["check"] == "webhooks"]
    return found["ok"], found["detail"]


async def test_a_redirect_is_not_followed(node: HubNode, receiver: Receiver) -> None:
    view = await added(node, receiver, spokes=["nobody"])
    receiver.answers.extend([302, 200])
    status, answer = await node.call("POST", f"{ALL}/{view['id']}/test")
    WebhookTestView.model_validate(answer)
    assert (status, answer["delivered"], answer["durationMs"]) == (200, False, None)
    assert answer["error"]["code"] in {"http_status", "unavailable"}
    assert len(receiver.came) == 1
    await node.call("DELETE", f"{ALL}/{view['id']}")


REFUSED: dict[str, tuple[dict[str, Any], int, str]] = {
    "metadata service": ({"url": "https://169.254.169.254/latest"}, 400, "url_refused"),
    "metadata in another spelling": ({"url": "https://2852039166/latest"}, 400, "url_refused"),
    "a user in it": ({"url": "https://user:secret@ci.example.org"}, 400, "url_refused"),
    "a file": ({"url": "file:///etc/passwd"}, 400, "url_refused"),
    "plain http to elsewhere": ({"url": "http://ci.example.org"}, 400, "url_refused"),
    "no event of ours": ({"url": "https://ci.example.org", "events": ["asleep"]}, 400, "invalid"),
    "no spoke's id": ({"url": "https://ci.example.org", "spokes": ["../x"]}, 400, "invalid"),
    "no url": ({}, 400, "invalid"),
}


@pytest.mark.attack(48)
@pytest.mark.parametrize(("request_body", "status", "code"), REFUSED.values(), ids=REFUSED)
async def test_who_may_not_be_told(node: HubNode, request_body: dict[str, Any], status: int, code: str) -> None:
    _, before = await node.call("GET", ALL)
    answered, problem = await node.call("POST", ALL, request_body)
    assert (answered, problem["code"]) == (status, code)
    _, after = await node.call("GET", ALL)
    assert after == before


@pytest.mark.parametrize("path", ["", "/test", "/resume", "/rotate"])
async def test_one_that_there_is_not(node: HubNode, path: str) -> None:
    method = "POST" if path else "DELETE"
    status, problem = await node.call(method, f"{ALL}/{new_id()}{path}")
    assert (status, problem["code"]) == (404, "not_found")


async def test_the_same_webhook_twice_is_refused(node: HubNode, receiver: Receiver) -> None:
    view = await added(node, receiver, spokes=["b", "a"])
    status, problem = await node.call("POST", ALL, {"url": receiver.url, "spokes": ["a", "b", "a"]})
    assert (status, problem["code"]) == (409, "webhook_refused")
    await node.call("DELETE", f"{ALL}/{view['id']}")


async def test_the_command_line(node: HubNode, spoke: StandinSpoke, receiver: Receiver) -> None:
    made = await node.hub("webhook", "add", receiver.url, "--event", "failed", "--spoke", spoke.id)
    assert made.returncode == 0, made.stderr
    facts = dict(re.findall(r"^(webhook|url|secret) +(\S+)", made.stdout, re.MULTILINE))
    receiver.secrets.append(facts["secret"])
    webhook_id = facts["webhook"]
    assert (await node.hub("webhook", "test", webhook_id)).stdout.startswith(f"{webhook_id} took it in ")
    assert [told["type"] for told in receiver.told] == ["webhook.test"]
    receiver.answers.append(500)
    failed = await node.hub("webhook", "test", webhook_id)
    assert (failed.returncode, failed.stderr) == (1, "error: http_status: the receiver answered 500\n")
    receiver.answers.append(500)
    as_json = await node.hub("webhook", "test", webhook_id, "--json")
    assert (as_json.returncode, json.loads(as_json.stdout)["delivered"]) == (1, False)
    listed = json.loads((await node.hub("webhook", "list", "--json")).stdout)
    WebhookList.model_validate({"webhooks": listed})
    assert facts["secret"] not in json.dumps(listed)
    assert webhook_id in (await node.hub("webhook", "list")).stdout
    shown = await node.hub("webhook", "show", webhook_id)
    assert f"failed of {spoke.id}" in shown.stdout
    assert json.loads((await node.hub("webhook", "show", webhook_id, "--json")).stdout)["state"] == "active"
    assert (await node.hub("webhook", "show", "../peers")).returncode == 2
    assert "told nothing more" in (await node.hub("webhook", "remove", webhook_id)).stdout
    gone = await node.hub("webhook", "remove", webhook_id, "--json")
    assert (gone.returncode, gone.stderr.split(":")[1]) == (1, " not_found")
    again = json.loads((await node.hub("webhook", "add", receiver.url, "--spoke", "x", "--json")).stdout)
    removed = json.loads((await node.hub("webhook", "remove", again["id"], "--json")).stdout)
    assert removed == {"id": again["id"], "removed": True}


async def test_a_rotation_misses_nothing_whichever_secret_the_receiver_knows(node: HubNode, receiver: Receiver) -> None:
    view = await added(node, receiver, spokes=["nobody"])
    former = receiver.secrets[0]

    async def taken() -> bool:
        _, answer = await node.call("POST", f"{ALL}/{view['id']}/test")
        delivered: bool = answer["delivered"]
        return delivered

    rotated = await node.hub("webhook", "rotate", view["id"], "--overlap", "1h")
    assert rotated.returncode == 0, rotated.stderr
    latest = dict(re.findall(r"^(webhook|secret) +(\S+)", rotated.stdout, re.MULTILINE))["secret"]
    assert latest != former
    for known in (former, latest):
        receiver.secrets[:] = [known]
        assert await taken()
    _, shown = await node.call("GET", f"{ALL}/{view['id']}")
    assert shown["formerSecretUntil"] is not None
    assert "secret" not in shown
    status, again = await node.call("POST", f"{ALL}/{view['id']}/rotate", {"overlapS": 0})
    AddedWebhookView.model_validate(again)
    assert (status, again["formerSecretUntil"]) == (200, None)
    for known, expected in ((former, False), (latest, False), (again["secret"], True)):
        receiver.secrets[:] = [known]
        assert await taken() is expected
    assert (await node.hub("webhook", "rotate", view["id"], "--overlap", "soon")).returncode == 2
    as_json = await node.hub("webhook", "rotate", view["id"], "--overlap", "0", "--json")
    assert json.loads(as_json.stdout)["secret"].startswith("whsec_")
    await node.call("DELETE", f"{ALL}/{view['id']}")


# --- the store


def make(number: int) -> Webhook:
    return Webhook(new_id(), f"https://ci.example.org/{number}", (), (), "0-0", 0)


@pytest.fixture
def audited() -> list[str]:
    return []


@pytest.fixture
def store(tmp_path: Path, audited: list[str]) -> WebhookStore:
    return WebhookStore(tmp_path / "trust.db", tmp_path / "webhook.key", lambda event, _fields: audited.append(event))


def test_secrets_are_in_no_file_and_stay_what_they_were(
    store: WebhookStore, tmp_path: Path, audited: list[str]
) -> None:
    one, other = make(1), make(2)
    secret, another = store.add(one), store.add(other)
    assert secret != another
    assert store.secret_of(one.webhook_id) == secret
    store.close()
    for path in tmp_path.iterdir():
        assert secret not in path.read_bytes()
        assert secret.hex().encode() not in path.read_bytes()
        assert path.stat().st_mode & 0o077 == 0 or path.suffix != ".key"
    again = WebhookStore(tmp_path / "trust.db", tmp_path / "webhook.key", lambda _event, _fields: None)
    assert again.list() == (one, other)
    assert again.secret_of(one.webhook_id) == secret
    again.close()
    assert audited == ["webhook.added", "webhook.added"]


def test_former_secrets_end_and_none_lasts_longer_than_the_latest_overlap(
    store: WebhookStore, tmp_path: Path, audited: list[str]
) -> None:
    hook = make(1)
    first = store.add(hook)
    second = store.rotate(hook.webhook_id, 1000, 100)
    assert store.secrets_of(hook.webhook_id, 1099) == [second, first]
    assert store.former_until(hook.webhook_id, 1099) == 1100
    assert (store.secrets_of(hook.webhook_id, 1100), store.former_until(hook.webhook_id, 1100)) == ([second], None)
    third = store.rotate(hook.webhook_id, 1050, 500)
    assert store.secrets_of(hook.webhook_id, 1099) == [third, second, first]
    assert store.secrets_of(hook.webhook_id, 1100) == [third, second]
    fourth = store.rotate(hook.webhook_id, 1060, 0)
    assert store.secrets_of(hook.webhook_id, 1060) == [fourth]
    fifth = store.rotate(hook.webhook_id, 1_000_000, 1)
    assert len({first, second, third, fourth, fifth}) == 5
    store.close()
    again = WebhookStore(tmp_path / "trust.db", tmp_path / "webhook.key", lambda _event, _fields: None)
    assert again.secrets_of(hook.webhook_id, 1_000_000) == [fifth, fourth]
    again.close()
    assert audited == ["webhook.added"] + ["webhook.rotated"] * 4


def test_secrets_that_sign_at_once_are_bounded_and_go_with_their_webhook(store: WebhookStore, tmp_path: Path) -> None:
    hook = make(1)
    store.add(hook)
    for _ in range(MAX_SECRETS - 1):
        store.rotate(hook.webhook_id, 1000, 100)
    with pytest.raises(WebhookRefused, match="overlap 0"):
        store.rotate(hook.webhook_id, 1000, 100)
    assert len(store.secrets_of(hook.webhook_id, 1000)) == MAX_SECRETS
    store.rotate(hook.webhook_id, 1000, 0)
    store.remove(hook.webhook_id)
    with closing(sqlite3.connect(tmp_path / "trust.db")) as database:
        assert database.execute("SELECT count(*) FROM webhook_secrets").fetchone() == (0,)
    with pytest.raises(NoSuchWebhook):
        store.rotate(hook.webhook_id, 1000, 100)
    store.close()


def test_what_was_not_audited_is_not_rotated(tmp_path: Path) -> None:
    def refuse(event: str, _fields: Any) -> None:
        if event == "webhook.rotated":
            raise Unavailable("the audit cannot be written")

    store = WebhookStore(tmp_path / "trust.db", tmp_path / "webhook.key", refuse)
    hook = make(1)
    secret = store.add(hook)
    with pytest.raises(Unavailable):
        store.rotate(hook.webhook_id, 1000, 100)
    assert store.secrets_of(hook.webhook_id, 1000) == [secret]
    store.close()


def test_with_another_key_file_nothing_is_signed(store: WebhookStore, tmp_path: Path) -> None:
    webhook = make(1)
    store.add(webhook)
    (tmp_path / "webhook.key").unlink()
    with pytest.raises(LocalError):
        store.secret_of(webhook.webhook_id)
    store.add(make(2))  # makes another file
    with pytest.raises(WebhookSecretLost):
        store.secret_of(webhook.webhook_id)
    store.close()


def test_they_are_bounded(store: WebhookStore, audited: list[str]) -> None:
    for number in range(MAX_WEBHOOKS):
        store.add(make(number))
    with pytest.raises(WebhookRefused, match="remove one first"):
        store.add(make(MAX_WEBHOOKS))
    assert (len(store.list()), len(audited)) == (MAX_WEBHOOKS, MAX_WEBHOOKS)
    store.remove(store.list()[0].webhook_id)
    store.add(make(MAX_WEBHOOKS))
    store.close()


def test_what_cannot_be_audited_does_not_happen(tmp_path: Path) -> None:
    def refuse(_event: str, _fields: Any) -> None:
        raise Unavailable("the audit cannot be written")

    store = WebhookStore(tmp_path / "trust.db", tmp_path / "webhook.key", refuse)
    with pytest.raises(Unavailable):
        store.add(make(1))
    assert store.list() == ()
    with pytest.raises(NoSuchWebhook):
        store.remove(new_id())
    store.close()


def test_a_store_that_cannot_be_used_is_unavailable(store: WebhookStore, tmp_path: Path, audited: list[str]) -> None:
    with closing(sqlite3.connect(tmp_path / "trust.db")) as other:
        other.execute("DROP TABLE webhooks")
        with pytest.raises(Unavailable):
            store.list()
        other.execute("CREATE TABLE webhooks (webhook_id, url, events, spokes, began, created_s)")
        other.commit()
        with pytest.raises(Unavailable):
            store.add(make(1))
    assert audited == []
    store.close()
