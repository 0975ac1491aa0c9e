"""Secrets of a hub and a spoke that work together: nowhere but in the files that hold them (attack row 63)."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from common.invites import parse_invite
from tests.integration.hub.hub_node import HubNode, spawn_request
from tests.integration.link.pair import Pair
from tests.integration.spoke.repositories import make_repository
from tests.spoke_node import SpokeNode, processes_of

HOLDERS = {"admin.token", "local.token", "hub-eu.key", "build-1.key"}
"""The files that may hold a secret."""


def spellings(secret: bytes) -> Iterator[bytes]:
    yield secret
    yield secret.hex().encode()
    yield base64.b64encode(secret).rstrip(b"=")
    yield base64.urlsafe_b64encode(secret).rstrip(b"=")


def key_secrets(file: Path) -> Iterator[bytes]:
    pem = file.read_bytes()
    yield pem.splitlines()[1]
    key = load_pem_private_key(pem, None)
    yield from spellings(key.private_bytes_raw())  # type: ignore[union-attr]  # an Ed25519 key


def seen_of(directory: Path) -> Iterator[tuple[str, bytes]]:
    """What a look at the machine shows of a node's processes: their arguments and their environment."""
    for pid in processes_of(directory):
        for part in ("cmdline", "environ"):
            try:
                yield f"{part} of {pid}", Path(f"/proc/{pid}/{part}").read_bytes()
            except OSError:  # it has just ended
                continue


def files_of(directory: Path) -> Iterator[tuple[str, bytes]]:
    for path in directory.rglob("*"):
        if path.is_file() and path.name not in HOLDERS:
            yield str(path), path.read_bytes()


async def answers(node: HubNode | SpokeNode, secrets: dict[str, str]) -> list[tuple[str, bytes]]:
    """What a node answers to whoever brings a secret to the wrong place, and its metrics."""
    found = []
    async with aiohttp.ClientSession() as session:
        for name, secret in secrets.items():
            bearer = {"Authorization": f"Bearer {secret}x"}
            asked = [
                ("GET", f"/{secret}", bearer, None),
                ("GET", f"/api/v1/agents?cursor={secret}", bearer, None),
                ("POST", "/api/v1/invites", {"Authorization": secret}, secret.encode()),
                ("POST", "/federation/v1/envelopes", {"Content-Type": "application/jose"}, secret.encode()),
                ("POST", "/federation/v1/join", {"Content-Type": "application/jose"}, secret.encode()),
            ]
            for method, path, headers, body in asked:
                async with session.request(method, node.url + path, headers=headers, data=body) as response:
                    found.append((f"{node.id} answers {path[:20]} with {name}", await response.read()))
        async with session.get(f"{node.url}/metrics") as response:
            assert response.status == 200
            found.append((f"{node.id} metrics", await response.read()))
    return found


@pytest.mark.slow
@pytest.mark.attack(63)
async def test_secrets_are_nowhere_but_in_their_files(tmp_path: Path) -> None:
    with HubNode(tmp_path) as hub:
        async with SpokeNode(tmp_path) as spoke:
            invite = (await hub.hub("invite")).stdout.strip()
            joined = await spoke.spoke("join", "-", stdin=invite)
            again = await spoke.spoke("join", "-", stdin=f"{invite}x")
            made = await hub.hub("token", "create", "ci", "--scope", "operate")
            secrets = {
                "the root token": hub.token,
                "the local token": spoke.token,
                "a token": made.stdout.strip(),
                "an invite": invite,
                "an invite's secret": parse_invite(invite).secret,
            }
            pair = Pair(hub, spoke, make_repository(tmp_path / "repository"))
            await pair.up()
            agent_id = await pair.spawn("environment", "input", "sleep 60")
            await pair.until(agent_id, "running", live=True)
            unknown = spawn_request("nobody", agentId="not an id")
            refused = await hub.call("POST", "/api/v1/agents", unknown)
            seen = [
                *seen_of(hub.directory),
                *seen_of(spoke.directory),
                *await answers(hub, secrets),
                *await answers(spoke, secrets),
                ("what join says", (joined.stdout + joined.stderr + again.stdout + again.stderr).encode()),
                ("a refusal", json.dumps(refused).encode()),
            ]
            assert any(b"agent_program" in shown for _, shown in seen), "the agent's process was looked at"
            await hub.call("POST", f"/api/v1/agents/{agent_id}/kill", {"graceS": 0})
            await pair.until(agent_id, "killed")
            log = (await hub.call("GET", f"/api/v1/agents/{agent_id}/logs"))[1]["data"]
            assert "HUBSPOKE_RESULT_FILE" in log
            keys = [
                *key_secrets(hub.place.key_file(hub.id)),
                *key_secrets(spoke.directory / "keys" / f"{spoke.id}.key"),
            ]
            await pair.spoke.terminate()
    seen += [
        ("the agent's log", log.encode()),
        ("the hub's log", hub.log().encode()),
        ("the spoke's log", spoke.log().encode()),
        *files_of(hub.directory),
        *files_of(spoke.directory),
    ]
    assert {"audit.jsonl", "trust.db"} <= {Path(name).name for name, _ in seen}
    hidden = {
        **{name: secret.encode() for name, secret in secrets.items()},
        **{f"key {n}": k for n, k in enumerate(keys)},
    }
    leaks = [f"{name} in {where}" for where, shown in seen for name, secret in hidden.items() if secret in shown]
    assert leaks == []
