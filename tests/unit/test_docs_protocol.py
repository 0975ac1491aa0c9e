"""docs/protocol.md says what the code does: documents pass our models, bytes are recomputed, tables agree."""

from __future__ import annotations

import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from common import strict_json
from common.agent_state import REASONS, TRANSITIONS, AgentStatus
from common.commands import COMMAND_NAMES, Kill, Logs, Spawn, parse_commands
from common.envelope import ANYONE, EnvelopeType, Result, parse_payload, verify
from common.errors import COMMAND_RETRYABLE, ENVELOPE_STATUS
from common.introduction import introduce
from common.invites import Invite, check_mac, decode_secret, parse_invite
from common.keyring import KeyRefused, Keyring, OwnedKey, PublicKey, check_point
from tests.envelopes import NOW_S

DOCS: Final = Path(__file__).parents[2] / "docs"
PAGE: Final = (DOCS / "protocol.md").read_text()
SCRIPT: Final = runpy.run_path(str(DOCS / "protocol_examples.py"))
BLOCKS: Final = list(SCRIPT["blocks"](PAGE))
EXAMPLES: Final = SCRIPT["Examples"](PAGE)
OWNERS: Final = {"hub": "hub-eu", "spoke": "build-1"}
JSON_BLOCKS: Final = {block.marker: block for block in BLOCKS if block.language == "json"}
SIGNED: Final = {block.marker: block.text.strip().encode() for block in BLOCKS if block.kind == "signed"}


def keyring() -> Keyring:
    return Keyring(OwnedKey(OWNERS[name], key.public) for name, key in EXAMPLES.keys.items())


def read_key(document: dict[str, Any]) -> None:
    public = PublicKey.from_jwk({name: value for name, value in document.items() if name != "d"})
    assert public in {key.public for key in EXAMPLES.keys.values()}, "d and x are of different keys"


def read_agent(document: dict[str, Any]) -> None:
    # Every member there and none beside: the page promises both.
    assert strict_json.parse(AgentStatus.model_validate(document).to_json()) == document


def read_problem(document: dict[str, Any]) -> None:
    assert ENVELOPE_STATUS[document["code"]] == document["status"]
    assert document["type"].endswith(document["code"])


READERS: Final[dict[str, Callable[[Any], object]]] = {
    "private key": read_key,
    "result": Result.model_validate,
    "commands": parse_commands,
    "agent": read_agent,
    "invite": Invite.model_validate,
    "problem": read_problem,
}


def test_what_can_be_computed_is_as_computed() -> None:
    assert SCRIPT["fill"](PAGE) == PAGE, "run: python docs/protocol_examples.py"


def test_every_block_has_a_marker() -> None:
    assert len(BLOCKS) == PAGE.count("\n```") / 2


@pytest.mark.parametrize("marker", JSON_BLOCKS)
def test_every_document_passes_our_models(marker: str) -> None:
    block = JSON_BLOCKS[marker]
    document = strict_json.parse(block.text.encode())
    kind, _, typ = block.kind.partition(" ")
    if kind != "payload":
        READERS[block.kind](document)
        return
    parse_payload(EnvelopeType(typ), strict_json.encode(document))
    for name in ("commands", "results", "events"):
        for item in document.get(name, []):
            if "agent" in item:
                read_agent(item["agent"])
    if typ == EnvelopeType.COMMAND:
        parse_commands(document["commands"])


@pytest.mark.parametrize("typ", EnvelopeType)
def test_each_type_of_envelope_is_shown(typ: EnvelopeType) -> None:
    assert typ in {shown for shown, _ in EXAMPLES.payloads.values()}


@pytest.mark.parametrize("marker", [marker for marker in SIGNED if not marker.startswith("signed: join")])
def test_the_signed_envelopes_verify_and_say_what_stands_above_them(marker: str) -> None:
    name = marker.removeprefix("signed: ").split()[0]
    typ, payload = EXAMPLES.payloads[name]
    envelope = verify(SIGNED[marker], keyring(), NOW_S)
    assert (envelope.typ, envelope.claims.jti) == (typ, payload["jti"])


def test_the_join_proves_its_key_and_the_invite() -> None:
    join = introduce(SIGNED["signed: join by spoke"], EnvelopeType.JOIN, audience=OWNERS["hub"], now_s=NOW_S, skew_s=60)
    (shown,) = (block.text.strip() for block in BLOCKS if block.name == "invite")
    invite = parse_invite(shown)
    assert invite == EXAMPLES.invite
    assert invite.fingerprint == EXAMPLES.keys["hub"].public.fingerprint
    assert (join.instance, join.invite) == (OWNERS["spoke"], invite.invite)
    assert join.mac is not None
    check_mac(decode_secret(invite.secret), join.key.kid, invite.hub, join.mac)


def test_the_identity_introduces_the_hub() -> None:
    raw = EXAMPLES.signed("identity", "hub")
    hub = introduce(raw, EnvelopeType.IDENTITY, audience=ANYONE, now_s=NOW_S, skew_s=60)
    assert (hub.instance, hub.key) == (OWNERS["hub"], EXAMPLES.keys["hub"].public)


def test_the_rotation_is_proved_by_the_new_key() -> None:
    _, rotate = EXAMPLES.payloads["rotate"]
    new = PublicKey.from_jwk(rotate["next"])
    old = EXAMPLES.keys["hub"]
    text = f"hubspoke-rotate-v1.{old.kid}.{new.kid}.{rotate['epoch']}.{rotate['aud']}"
    new.verify(SCRIPT["decode_base64url"](rotate["proof"].encode()), text.encode())


def test_the_replies_answer_the_envelopes_of_the_page() -> None:
    payloads = {name: payload for name, (_, payload) in EXAMPLES.payloads.items()}
    for reply, request in (("reply", "command"), ("acknowledgement", "event"), ("joined", "join")):
        assert payloads[reply]["re"] == payloads[request]["jti"]
        assert (payloads[reply]["iss"], payloads[reply]["aud"]) == (payloads[request]["aud"], payloads[request]["iss"])
    asked = [command["id"] for command in payloads["command"]["commands"]]
    assert [result["id"] for result in payloads["reply"]["results"]] == asked


def test_the_refused_keys_are_those_we_refuse() -> None:
    (shown,) = (block.text.split() for block in BLOCKS if block.name == "refused keys")
    assert len(set(shown)) == 14
    for point in shown:
        with pytest.raises(KeyRefused):
            check_point(bytes.fromhex(point))


def rows() -> list[list[str]]:
    """Every table row of the page, cell by cell."""
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in PAGE.splitlines() if line[:2] == "| "]


def codes(cell: str) -> list[str]:
    return re.findall(r"`(\w+)`", cell)


def test_the_rejections_are_ours_with_their_status() -> None:
    shown = {code: int(row[0]) for row in rows() if row[0].isdecimal() for code in codes(row[1])}
    of_join = {"url_refused": 400, "invite_refused": 403, "peer_refused": 409}
    assert shown == {**ENVELOPE_STATUS, "rate_limited": 429, "unavailable": 503, **of_join}


def test_the_errors_of_commands_are_ours() -> None:
    shown = {codes(row[0])[0]: row[1] == "yes" for row in rows() if row[1] in {"yes", "no"}}
    assert shown == dict(COMMAND_RETRYABLE)


def test_the_commands_states_and_reasons_are_named() -> None:
    named = set(re.findall(r"`([a-z_]+)`", PAGE))
    assert named >= set(COMMAND_NAMES) | set(TRANSITIONS) | REASONS


@pytest.mark.parametrize(
    ("member", "model"),
    [("priority", Spawn), ("timeoutS", Spawn), ("maxAttempts", Spawn), ("graceS", Kill), ("limit", Logs)],
)
def test_defaults_are_ours(member: str, model: type[Spawn | Kill | Logs]) -> None:
    (field,) = (field for field in model.model_fields.values() if field.alias == member)
    found = re.search(rf"`{member}`[^`]*?default (\d+)", PAGE)
    assert found is not None
    assert int(found[1]) == field.default
