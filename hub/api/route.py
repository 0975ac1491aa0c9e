"""The hub's routes: as all are, and what a token must reach for them."""

from __future__ import annotations

from dataclasses import dataclass

import common.route
from hub.scopes import Scope, default_scope


@dataclass(frozen=True, slots=True)
class Route(common.route.Route):
    """A route of the hub's API; `scope` is what a token must reach."""

    scope: Scope | None = None

    @property
    def needs(self) -> Scope:
        """What a token must reach."""
        return self.scope or default_scope(self.method)
