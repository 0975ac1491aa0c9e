"""Puts the page together, from what the API's handlers are: one set of queries and operations for both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web

from common.audit_file import Audit
from common.clock import Clock
from common.inbox import TrustSource
from hub.agents import Agents
from hub.api.agents import AgentsApi
from hub.api.freezing import FreezingApi
from hub.api.peers import PeersApi
from hub.auth import Identities
from hub.dashboard.agents import AgentPages
from hub.dashboard.assets import Assets
from hub.dashboard.attempts import Attempts
from hub.dashboard.entrance import Entrance
from hub.dashboard.live import LivePages
from hub.dashboard.login import Login
from hub.dashboard.logs import LogPages
from hub.dashboard.pages import Pages
from hub.dashboard.sessions import Sessions
from hub.dashboard.spawning import SpawnPages
from hub.dashboard.spokes import SpokePages
from hub.dashboard.work import WorkPages
from hub.feed import Feed
from hub.operations import Operations


@dataclass(frozen=True, slots=True)
class Behind:
    """What the page stands on."""

    instance: str
    agents_api: AgentsApi
    peers_api: PeersApi
    freezing_api: FreezingApi
    agents: Agents
    feed: Feed
    trust: TrustSource
    operations: Operations
    identities: Identities
    audit: Audit
    clock: Clock
    url: Callable[[], str | None]


class Dashboard:
    """The page's routes, and the entrance that guards them."""

    def __init__(self, behind: Behind) -> None:
        assets, sessions = Assets(), Sessions(behind.clock)
        pages = Pages(behind.instance, behind.clock, assets)
        self.entrance = entrance = Entrance(behind.instance, sessions, pages, behind.url)
        lists = AgentPages(pages, behind.agents_api, behind.agents)
        spokes = SpokePages(pages, behind.peers_api, behind.freezing_api, behind.agents, behind.operations)
        login = Login(behind.identities, sessions, Attempts(behind.clock), entrance, pages, behind.audit)

        def still(request: web.Request) -> None:
            behind.identities.identify(entrance.token_of(request))

        self.routes = entrance.routes(
            [
                *assets.pages(),
                *login.pages(),
                *spokes.pages(),
                *lists.pages(),
                *SpawnPages(pages, behind.agents_api, behind.agents, behind.trust, behind.clock).pages(),
                *LogPages(pages, behind.agents_api, behind.agents).pages(),
                *WorkPages(pages, behind.agents_api, behind.agents).pages(),
                *LivePages(pages, behind.feed, behind.agents, lists, spokes, still).pages(),
            ]
        )
