"""The rows of the attack table that HTTP can carry to a running spoke: the code, and that nothing has changed.

What is compared before and after is everything the spoke keeps: all of Valkey, the trust store, the executions of
agents, and the processes of its directory.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import hmac
import io
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import pytest

from common.envelope import EnvelopeType
from common.jose import MAX_ENVELOPE_BYTES, encode_base64url
from common.valkey import connect
from tests.envelopes import bodies, header, sign
from tests.peer import Answer, HubPeer, new_id
from tests.spoke_node import SpokeNode, run_in_process, tables

ONE_BODY = "the signature does not verify with a key known for the sender"
REPOSITORY = "https://git.example.org/team/app.git"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SpokeNode]:
    """A spoke that accepts and starts nothing, with one hub it knows."""
    policy = {"repositories": ["https://git.example.org/**"]}
    with SpokeNode(tmp_path_factory.mktemp("attacked"), toml=tables(limits={"agents": 0}, policy=policy)) as node:
        HubPeer().register(node)
        yield node


@pytest.fixture
def hub() -> HubPeer:
    return HubPeer()


async def everything(node: SpokeNode) -> dict[str, Any]:
    """All that a spoke keeps; without what only counts envelopes that were accepted, or passes by itself."""
    async with connect(node.directory / "valkey") as client:
        keys: Any = sorted(await client.keys("*"))
        kept = {key.decode(): await client.dump(key) for key in keys if b":rate:" not in key}
    return {
        "valkey": kept,
        "peers": run_in_process(node.directory, "--json", "peer", "list"),
        "executions": node.executions(),
        "processes": sorted(node.processes()),
    }


class Attack:
    """What a test of a bad envelope asserts of the answer."""

    def refused(self, answer: Answer, *codes: str) -> None:
        assert answer.code in codes, (answer.code, answer.body)
        if answer.code == "bad_signature":
            assert answer.problem["detail"] == ONE_BODY
        assert answer.status == {"bad_signature": 401, "malformed": 400}.get(answer.code, answer.status)
        assert len(answer.body) < 1000


@pytest.fixture
async def attack(node: SpokeNode) -> AsyncIterator[Attack]:
    before = await everything(node)
    yield Attack()
    assert await everything(node) == before
    assert (await node.call("GET", "/healthz", headers={}))[0] == 200


def signed(node: SpokeNode, hub: HubPeer, head: dict[str, Any] | None = None, **changes: Any) -> bytes:
    """A good COMMAND but for its header or some claims."""
    payload = {**hub.claims(node), "commands": [hub.spawn(REPOSITORY)], **changes}
    return sign(payload, key=hub.key, head=head)


def with_header(node: SpokeNode, hub: HubPeer, **changes: Any) -> bytes:
    return signed(node, hub, header(key=hub.key, **changes))


async def test_the_envelope_that_all_cases_start_from_is_good(node: SpokeNode, hub: HubPeer) -> None:
    assert (await hub.post(node, signed(node, hub))).code == "accepted"


# --- rows 1 to 12: the header and the shape


@pytest.mark.attack(1)
@pytest.mark.parametrize("alg", ["none", "NONE", "", None, ...], ids=repr)
@pytest.mark.parametrize("unsigned", [True, False], ids=["unsigned", "signed"])
async def test_alg_none(node: SpokeNode, hub: HubPeer, attack: Attack, alg: Any, unsigned: bool) -> None:
    raw = with_header(node, hub, alg=alg)
    raw = raw.rpartition(b".")[0] + b"." if unsigned else raw
    attack.refused(await hub.post(node, raw), "bad_signature")


@pytest.mark.attack(2)
async def test_hmac_with_a_public_key(node: SpokeNode, hub: HubPeer, attack: Attack) -> None:
    parts = with_header(node, hub, alg="HS256").split(b".")
    signing_input = parts[0] + b"." + parts[1]
    mac = hmac.digest(hub.key.public.raw, signing_input, hashlib.sha256)
    attack.refused(await hub.post(node, signing_input + b"." + encode_base64url(mac)), "bad_signature")


@pytest.mark.attack(3)
@pytest.mark.attack(4)
@pytest.mark.parametrize("alg", ["EdDSA", "ES256", "RS256", "Ed448"])
async def test_other_algorithms(node: SpokeNode, hub: HubPeer, attack: Attack, alg: str) -> None:
    attack.refused(await hub.post(node, with_header(node, hub, alg=alg)), "bad_signature")


class Listener:
    """Counts the connections that somebody makes to it."""

    def __init__(self) -> None:
        self.connections = 0
        self.url = ""

    def connected(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        writer.close()


@pytest.fixture
async def listener() -> AsyncIterator[Listener]:
    listener = Listener()
    server = await asyncio.start_server(listener.connected, "127.0.0.1", 0)
    async with server:
        listener.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/keys.json"
        yield listener


@pytest.mark.attack(5)
@pytest.mark.attack(6)
@pytest.mark.parametrize("member", ["jwk", "x5c", "jku", "x5u"])
async def test_keys_that_an_envelope_brings_or_points_at(
    node: SpokeNode, attack: Attack, listener: Listener, member: str
) -> None:
    stranger = HubPeer("hub-eu", seed=66)
    brought = {"jwk": stranger.key.public.to_jwk(), "x5c": ["MIIB"], "jku": listener.url, "x5u": listener.url}
    raw = with_header(node, stranger, **{member: brought[member]})
    attack.refused(await stranger.post(node, raw), "malformed")
    assert listener.connections == 0


@pytest.mark.attack(7)
@pytest.mark.attack(8)
@pytest.mark.parametrize(
    "kid",
    ["../../etc/passwd", "\0", "", "*", "{x}", "a:b", "k" * 100_000, "' OR '1'='1", "\r\nX: y"],
    ids=lambda kid: ascii(kid)[:12],
)
async def test_key_ids(node: SpokeNode, hub: HubPeer, attack: Attack, kid: str) -> None:
    attack.refused(await hub.post(node, with_header(node, hub, kid=kid)), "bad_signature", "malformed")


@pytest.mark.attack(9)
@pytest.mark.attack(10)
@pytest.mark.parametrize("members", [{"crit": []}, {"crit": ["b64"], "b64": False}, {"crit": ["x"]}, {"b64": False}])
async def test_extensions(node: SpokeNode, hub: HubPeer, attack: Attack, members: dict[str, Any]) -> None:
    attack.refused(await hub.post(node, with_header(node, hub, **members)), "malformed")


@pytest.mark.attack(11)
@pytest.mark.parametrize("form", ["flattened", "general", "two signatures"])
async def test_json_serialization(node: SpokeNode, hub: HubPeer, attack: Attack, form: str) -> None:
    protected, payload, signature = (part.decode() for part in signed(node, hub).split(b"."))
    one = {"protected": protected, "signature": signature}
    forms = {"flattened": {"payload": payload, **one}, "general": {"payload": payload, "signatures": [one]}}
    forms["two signatures"] = {"payload": payload, "signatures": [one, one]}
    attack.refused(await hub.post(node, json.dumps(forms[form]).encode()), "malformed")


@pytest.mark.attack(12)
@pytest.mark.parametrize("count", [0, 1, 2, 4, 5])
async def test_part_counts(node: SpokeNode, hub: HubPeer, attack: Attack, count: int) -> None:
    raw = b".".join((signed(node, hub).split(b".") * 2)[:count])
    attack.refused(await hub.post(node, raw), "malformed")


# --- rows 13, 19, 20, 45 to 47, 55: the payload


def replaced(node: SpokeNode, hub: HubPeer, old: str, new: str) -> bytes:
    """A good envelope whose JSON was changed before it was signed."""
    payload = json.dumps({**hub.claims(node), "commands": [hub.spawn(REPOSITORY)]})
    assert old in payload
    return sign(payload.replace(old, new, 1).encode(), key=hub.key)


REPLACED: dict[str, tuple[str, str]] = {
    "aud twice": ('"aud"', '"aud": "build-1", "aud"'),
    "jti twice": ('"jti"', '"jti": "x", "jti"'),
    "command twice": ('"command"', '"command": "kill", "command"'),
    "id twice": ('"id"', '"id": "x", "id"'),
    "a deep member twice": ('"branch"', '"branch": "x", "branch"'),
    "5.0": ('"maxAttempts": 1', '"maxAttempts": 1.0'),
    "'5'": ('"maxAttempts": 1', '"maxAttempts": "1"'),
    "true": ('"maxAttempts": 1', '"maxAttempts": true'),
    "1e999": ('"maxAttempts": 1', '"maxAttempts": 1e999'),
    "2^63": ('"maxAttempts": 1', '"maxAttempts": 9223372036854775808'),
    "5000 digits": ('"maxAttempts": 1', f'"maxAttempts": {"9" * 5000}'),
    "NaN": ('"maxAttempts": 1', '"maxAttempts": NaN'),
    "a list of audiences": ('"aud": "build-1"', '"aud": ["build-1"]'),
    "a lone surrogate": ('"T-1"', '"\\ud800"'),
    "NUL in a name": ('"T-1"', '"T\\u0000"'),
    "bidi in a name": ('"T-1"', '"\u202eT"'),
    "a homoglyph": ('"iss": "hub-eu"', '"iss": "hub-\u0435u"'),
    "an unknown member": ('"taskId"', '"shell": "id", "taskId"'),
    "an unknown command": ('"spawn"', '"exec"'),
    "a path for an id": ('"taskId": "T-1"', '"taskId": "../\\u0000"'),
    "nesting": ('"T-1"', "[" * 2000 + "]" * 2000),
    "nothing to do": ('"commands": [', '"nothing": ['),
}


@pytest.mark.attack(13)
@pytest.mark.attack(45)
@pytest.mark.attack(46)
@pytest.mark.attack(47)
@pytest.mark.parametrize(("old", "new"), REPLACED.values(), ids=REPLACED)
async def test_payloads(node: SpokeNode, hub: HubPeer, attack: Attack, old: str, new: str) -> None:
    attack.refused(await hub.post(node, replaced(node, hub, old, new)), "malformed")


RAW_PAYLOADS = {
    "100,000 brackets": b"[" * 100_000,
    "BOM": b"\xef\xbb\xbf{}",
    "UTF-16": "{}".encode("utf-16"),
    "no UTF-8": b'{"a":"\xff"}',
    "a list": b"[]",
    "empty": b"",
    "two documents": b"{}{}",
}


@pytest.mark.attack(45)
@pytest.mark.attack(47)
@pytest.mark.parametrize("payload", RAW_PAYLOADS.values(), ids=RAW_PAYLOADS)
async def test_payloads_that_are_no_object(node: SpokeNode, hub: HubPeer, attack: Attack, payload: bytes) -> None:
    attack.refused(await hub.post(node, sign(payload, key=hub.key)), "malformed")


@pytest.mark.attack(19)
@pytest.mark.parametrize("change", [b"=", b"\n", b" ", b"+", b"/"], ids=repr)
@pytest.mark.parametrize("part", [0, 1, 2])
async def test_base64url_slack(node: SpokeNode, hub: HubPeer, attack: Attack, change: bytes, part: int) -> None:
    parts = signed(node, hub).split(b".")
    parts[part] += change
    attack.refused(await hub.post(node, b".".join(parts)), "malformed")


@pytest.mark.attack(20)
@pytest.mark.attack(55)
@pytest.mark.parametrize("spelling", ["{%s}", "urn:uuid:%s", "upper", "v4", "../%s", "%s\x00", "%s/"])
@pytest.mark.parametrize("member", ["jti", "id"])
async def test_ids_in_other_spellings(
    node: SpokeNode, hub: HubPeer, attack: Attack, spelling: str, member: str
) -> None:
    one = new_id()
    of = {"upper": one.upper(), "v4": one[:14] + "4" + one[15:]}
    spelt = of.get(spelling) or spelling % one
    command = hub.spawn(REPOSITORY) | ({"id": spelt} if member == "id" else {})
    changes = {"jti": spelt} if member == "jti" else {}
    attack.refused(await hub.post(node, hub.seal(node, command, **changes)), "malformed")


# --- rows 21, 26 to 30: who, for whom, when


@pytest.mark.attack(21)
async def test_64_replays_at_once_have_one_effect(node: SpokeNode, hub: HubPeer) -> None:
    spawn = hub.spawn(REPOSITORY)
    raw = hub.seal(node, spawn)
    answers = await asyncio.gather(*(hub.post(node, raw) for _ in range(64)))
    codes = [answer.code for answer in answers]
    assert (codes.count("accepted"), codes.count("replayed")) == (1, 63)
    assert {answer.status for answer in answers} == {200, 409}
    before = await everything(node)
    assert (await hub.post(node, raw)).code == "replayed"
    assert await everything(node) == before
    found = [agent for agent in await node.agents() if agent["agentId"] == spawn["id"]]
    assert len(found) == 1


@pytest.mark.attack(26)
@pytest.mark.parametrize("audience", ["build-2", "build", "build-1.", "build-11", "Build-1", "any", "hub-eu"])
async def test_another_audience(node: SpokeNode, hub: HubPeer, attack: Attack, audience: str) -> None:
    answer = await hub.post(node, signed(node, hub, aud=audience))
    attack.refused(answer, "wrong_audience")
    assert answer.status == 403


@pytest.mark.attack(27)
@pytest.mark.parametrize("issuer", ["hub-us", "build-1", "hub-eu.example"])
async def test_an_issuer_that_does_not_own_the_key(node: SpokeNode, hub: HubPeer, attack: Attack, issuer: str) -> None:
    attack.refused(await hub.post(node, signed(node, hub, iss=issuer)), "bad_signature")


@pytest.mark.attack(28)
async def test_reflection(node: SpokeNode, hub: HubPeer) -> None:
    reply = (await hub.post(node, hub.seal(node, hub.about("status", new_id())))).body
    before = await everything(node)
    assert (await hub.post(node, reply)).code == "bad_signature"
    async with aiohttp.ClientSession() as session, session.get(f"{node.url}/federation/v1/identity") as response:
        identity = await response.read()
    assert (await hub.post(node, identity)).code == "bad_signature"
    assert await everything(node) == before


@pytest.mark.attack(29)
@pytest.mark.parametrize(
    "typ", [typ for typ in EnvelopeType if typ is not EnvelopeType.COMMAND], ids=lambda typ: typ.name
)
async def test_other_types_of_envelopes(node: SpokeNode, hub: HubPeer, attack: Attack, typ: EnvelopeType) -> None:
    raw = sign({**hub.claims(node), **bodies()[typ]}, key=hub.key, typ=typ)
    answer = await hub.post(node, raw)
    # A spoke takes a ROTATE too: this one lacks the proof of the new key.
    attack.refused(answer, "bad_signature" if typ is EnvelopeType.ROTATE else "wrong_direction", "malformed")


@pytest.mark.attack(29)
@pytest.mark.parametrize("typ", ["command+jwt ", "COMMAND+JWT", "JWT", "", None, 7], ids=repr)
async def test_types_that_are_none(node: SpokeNode, hub: HubPeer, attack: Attack, typ: Any) -> None:
    attack.refused(await hub.post(node, with_header(node, hub, typ=typ)), "malformed")


@pytest.mark.attack(29)
async def test_the_body_of_another_type(node: SpokeNode, hub: HubPeer, attack: Attack) -> None:
    raw = sign({**hub.claims(node), **bodies()[EnvelopeType.EVENT]}, key=hub.key)
    attack.refused(await hub.post(node, raw), "malformed")


WINDOWS: dict[str, tuple[int, int, str]] = {
    "301 s": (0, 301, "malformed"),
    "ten years": (0, 315_360_000, "malformed"),
    "backwards": (0, -1, "malformed"),
    "nothing": (0, 0, "malformed"),
    "future": (3600, 60, "not_yet_valid"),
    "past": (-3600, 60, "expired"),
    "just past the skew": (-123, 60, "expired"),
}


@pytest.mark.attack(30)
@pytest.mark.parametrize(("shift", "lifetime", "code"), WINDOWS.values(), ids=WINDOWS)
async def test_windows(node: SpokeNode, hub: HubPeer, attack: Attack, shift: int, lifetime: int, code: str) -> None:
    iat = hub.claims(node)["iat"] + shift
    answer = await hub.post(node, signed(node, hub, iat=iat, exp=iat + lifetime))
    attack.refused(answer, code)
    if code != "malformed":
        assert answer.status == 403
        assert abs(answer.problem["now"] - (iat - shift)) < 5


@pytest.mark.attack(30)
async def test_within_the_skew_a_window_holds(node: SpokeNode, hub: HubPeer) -> None:
    iat = hub.claims(node)["iat"]
    for shift in (-110, 50):
        raw = signed(node, hub, iat=iat + shift, exp=iat + shift + 60)
        assert (await hub.post(node, raw)).code == "accepted"


# --- rows 41 to 44: HTTP itself


@pytest.mark.attack(41)
@pytest.mark.parametrize("chunked", [False, True])
async def test_oversize(node: SpokeNode, attack: Attack, chunked: bool) -> None:
    body = b"A" * (MAX_ENVELOPE_BYTES + 1)

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 65_536):
            yield body[start : start + 65_536]

    headers = {"Content-Type": "application/jose"}
    data: Any = pieces() if chunked else io.BytesIO(body)
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{node.url}/federation/v1/envelopes", data=data, headers=headers) as response,
    ):
        assert (response.status, (await response.json(content_type=None))["code"]) == (413, "too_large")


@pytest.mark.attack(42)
@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "identity", "GZIP", "x"])
async def test_compressed_bodies(node: SpokeNode, hub: HubPeer, attack: Attack, encoding: str) -> None:
    body = gzip.compress(signed(node, hub)) if encoding == "gzip" else signed(node, hub)
    answer = await hub.post(node, body, Content_Encoding=encoding)
    attack.refused(answer, "unsupported_media_type")
    assert answer.status == 415


@pytest.mark.parametrize(
    "media_type", ["application/json", "text/plain", "application/jose+json", "multipart/form-data"]
)
async def test_other_media_types(node: SpokeNode, hub: HubPeer, attack: Attack, media_type: str) -> None:
    answer = await hub.post(node, signed(node, hub), Content_Type=media_type)
    assert (answer.status, answer.code) == (415, "unsupported_media_type")


async def raw_http(node: SpokeNode, *pieces: bytes, deadline_s: float = 10) -> bytes:
    """Write bytes to the node's socket and return all it answers until it closes."""
    host, _, port = node.url.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        async with asyncio.timeout(deadline_s):
            return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


ENVELOPES = b"POST /federation/v1/envelopes HTTP/1.1\r\nHost: x\r\nContent-Type: application/jose\r\n"
SMUGGLED: dict[str, bytes] = {
    "length and chunks": ENVELOPES
    + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
    "two lengths": ENVELOPES + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
    "a negative length": ENVELOPES + b"Content-Length: -5\r\n\r\nabcdef",
    "a length with a sign": ENVELOPES + b"Content-Length: +5\r\n\r\nabcde",
    "a bad chunk size": ENVELOPES + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n",
    "a chunk size with spaces": ENVELOPES + b"Transfer-Encoding: chunked\r\n\r\n 5 \r\nabcde\r\n0\r\n\r\n",
    "chunked twice": ENVELOPES + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "a space before the colon": ENVELOPES + b"Content-Length : 5\r\n\r\nabcde",
    "a folded header": ENVELOPES + b"X: a\r\n b\r\nContent-Length: 5\r\n\r\nabcde",
    "NUL in a header": ENVELOPES + b"X: a\x00b\r\nContent-Length: 5\r\n\r\nabcde",
    "no Host": ENVELOPES.replace(b"Host: x\r\n", b"") + b"Content-Length: 1\r\n\r\nx",
    "no HTTP": b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a huge header": ENVELOPES + b"X: " + b"a" * 20_000 + b"\r\n\r\n",
}  # fmt: skip


@pytest.mark.attack(44)
@pytest.mark.parametrize("sent", SMUGGLED.values(), ids=SMUGGLED)
async def test_smuggling(node: SpokeNode, attack: Attack, sent: bytes) -> None:
    answer = await raw_http(node, sent)
    statuses = [line.split()[1] for line in answer.split(b"\r\n") if line.startswith(b"HTTP/1.")]
    assert len(statuses) <= 1, "one request, one answer"
    assert all(status.startswith(b"4") for status in statuses), answer[:200]


@pytest.mark.attack(41)
@pytest.mark.attack(43)
@pytest.mark.slow
async def test_a_body_that_never_comes_holds_nobody_up(node: SpokeNode, hub: HubPeer, attack: Attack) -> None:
    slow = asyncio.create_task(raw_http(node, ENVELOPES + b"Content-Length: 1000\r\n\r\n", b"abc", deadline_s=30))
    while not slow.done():
        assert (await hub.post(node, b"a.b.c")).code == "malformed"
        await asyncio.wait((slow,), timeout=0.5)
    assert b" 408 " in (await slow).split(b"\r\n")[0]


@pytest.mark.attack(64)
async def test_good_peers_are_served_amid_a_flood_of_bad_signatures(node: SpokeNode, hub: HubPeer) -> None:
    stranger = HubPeer("hub-flood", seed=99)
    bad = signed(node, stranger)

    async def flood() -> None:
        for _ in range(150):
            assert (await stranger.post(node, bad)).code == "bad_signature"

    async def good() -> list[float]:
        taken = []
        for _ in range(20):
            started = asyncio.get_running_loop().time()
            assert (await hub.post(node, hub.seal(node, hub.about("status", new_id())))).code == "accepted"
            taken.append(asyncio.get_running_loop().time() - started)
        return taken

    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(flood())
        served = group.create_task(good())
    assert max(served.result()) < 2
