"""A real hub and a real spoke that nobody can reach: it joined without a URL, so everything goes over the link."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.integration.hub.hub_node import HubNode
from tests.integration.spoke.repositories import make_repository
from tests.spoke_node import SpokeNode, eventually


@dataclass
class Pair:
    """Both nodes and a repository that the spoke may use."""

    hub: HubNode
    spoke: SpokeNode
    repository: Path

    async def peer(self) -> dict[str, Any]:
        """Return what the hub's API shows of the spoke."""
        _, view = await self.hub.call("GET", f"/api/v1/peers/{self.spoke.id}")
        shown: dict[str, Any] = view
        return shown

    async def up(self) -> dict[str, Any]:
        """Wait until the link is up, and return the hub's view of the spoke."""

        async def linked() -> dict[str, Any] | None:
            view = await self.peer()
            return view if view.get("link") else None

        view: dict[str, Any] = await eventually(linked, "the link is up")
        return view

    async def spawn(self, *work_items: str, **members: Any) -> str:
        """Spawn an agent by the hub's API and return its id."""
        context = {"repository": self.repository.as_uri(), "branch": "main", "workItems": list(work_items)}
        return await self.hub.spawn(self.spoke.id, context=context, maxAttempts=1, **members)

    async def until(self, agent_id: str, *statuses: str, live: bool = False) -> dict[str, Any]:
        """Wait until the hub shows the agent in one of these states, and return it."""

        async def reached() -> dict[str, Any] | None:
            status, agent = await self.hub.call("GET", f"/api/v1/agents/{agent_id}{'?live=true' if live else ''}")
            return agent if status == 200 and agent["status"] in statuses else None

        agent: dict[str, Any] = await eventually(reached, f"{agent_id} is {' or '.join(statuses)}")
        return agent


def stay_where_it_is(hub: HubNode) -> None:
    """Let the hub listen on the port that it has, also after a restart: its spokes dial it there."""
    port = hub.url.rpartition(":")[2]
    text = hub.place.settings_file.read_text()
    hub.place.settings_file.write_text(text.replace('"127.0.0.1:0"', f'"127.0.0.1:{port}"'))


async def join(hub: HubNode, spoke: SpokeNode) -> None:
    """Join by an invite, as both operators would."""
    invite = await hub.hub("invite")
    assert invite.returncode == 0, invite.stderr
    joined = await spoke.spoke("join", "-", stdin=invite.stdout)
    assert joined.returncode == 0, joined.stderr


@asynccontextmanager
async def linked(tmp_path: Path, toml: str | None = None, hub_toml: str = "") -> AsyncIterator[Pair]:
    """Yield a pair whose link is up; `toml` is the spoke's."""
    with HubNode(tmp_path, toml=hub_toml) as hub:
        async with SpokeNode(tmp_path, toml=toml) as spoke:
            await join(hub, spoke)
            pair = Pair(hub, spoke, make_repository(tmp_path / "repository"))
            await pair.up()
            yield pair
