"""Renders the page's templates, for whoever looks: their scope, the session's forms, what there is to say once."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from aiohttp import web
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from common.clock import Clock
from hub.auth import SCOPE, WHO
from hub.dashboard import words
from hub.dashboard.assets import Assets
from hub.dashboard.sessions import Session
from hub.scopes import SCOPES, Scope

SESSION: Final = web.RequestKey("session", Session)
_TEMPLATES: Final = Path(__file__).parent / "templates"


def may(request: web.Request, needed: Scope) -> bool:
    """Whether who looks could also do what takes `needed`."""
    return SCOPES.index(request[SCOPE]) >= SCOPES.index(needed)


class Pages:
    """The templates; text of others is escaped unless a filter of `words` made markup of it."""

    def __init__(self, instance: str, clock: Clock, assets: Assets) -> None:
        self._environment = Environment(
            loader=FileSystemLoader(_TEMPLATES),
            autoescape=True,
            auto_reload=False,
            undefined=StrictUndefined,
            finalize=words.plain,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters.update(
            age=lambda text: words.moment(text, clock.now_ms()),
            lines=words.lines,
            size=words.size,
            pretty=words.pretty,
        )
        self._environment.globals.update(hub=instance, asset=assets.url, duration=words.duration)

    def part(self, request: web.Request, template: str, **known: Any) -> str:
        """Return a piece of a page."""
        return self._environment.get_template(template).render(can=lambda needed: may(request, needed), **known)

    def show(self, request: web.Request, template: str, *, status: int = 200, **known: Any) -> web.Response:
        """Answer with a whole page."""
        session, who = request.get(SESSION), request.get(WHO)
        text = self.part(
            request,
            template,
            who=who,
            scope=request.get(SCOPE),
            path=request.path,
            csrf=session and session.csrf,
            notes=session.take_notes() if session is not None and who is not None else [],
            **known,
        )
        return web.Response(text=text, status=status, content_type="text/html", charset="utf-8")
