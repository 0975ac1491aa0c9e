"""Two nodes that speak TLS with certificates of an authority of their own, driven by their command lines."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.integration.hub.hub_node import HUB, HubNode
from tests.integration.spoke.repositories import make_repository
from tests.spoke_node import SpokeNode, eventually, tables


@pytest.mark.slow
async def test_join_spawn_and_logs_over_tls(tmp_path: Path) -> None:
    authority = Authority()
    ca = authority.write(tmp_path / "ca.crt")
    certificate, key = authority.issue(tmp_path)
    tls = {"certificate": str(certificate), "key": str(key), "ca": str(ca)}
    repository = make_repository(tmp_path / "repository")
    with HubNode(
        tmp_path, toml="[tls]\n" + "".join(f"{name} = {json.dumps(path)}\n" for name, path in tls.items())
    ) as hub:
        async with SpokeNode(tmp_path, toml=tables(tls=tls)) as spoke:
            assert (hub.url[:8], spoke.url[:8]) == ("https://", "https://")
            invite = await hub.hub("invite")
            joined = await spoke.spoke("join", "-", stdin=invite.stdout)
            assert joined.returncode == 0, joined.stderr

            async def linked() -> bool:
                return "up since" in (await hub.hub("peer", "show", spoke.id)).stdout

            await eventually(linked, "the link is up")
            done = await hub.hub(
                "spawn", spoke.id, "--type", "worker", "--repo", repository.as_uri(), "--branch", "main",
                "--item", "print over tls", "--follow",
            )  # fmt: skip
            assert (done.returncode, "over tls" in done.stdout) == (0, True), done.stderr
            assert (await spoke.spoke("queue", "--json")).returncode == 0


def test_a_hub_for_others_without_tls_does_not_start(tmp_path: Path) -> None:
    node = HubNode(tmp_path)
    settings = node.place.settings_file
    settings.write_text(settings.read_text().replace("127.0.0.1:0", "0.0.0.0:0"))
    command = [str(HUB), "--dir", str(node.directory), "serve"]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (refused.returncode, refused.stderr.splitlines()[-1].split(": ")[1]) == (1, "tls")
