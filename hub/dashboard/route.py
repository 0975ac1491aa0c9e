"""The table of the page's routes: who may, and which of them take a form."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web

from hub.dashboard.forms import Form
from hub.scopes import Scope

Look = Callable[[web.Request], Awaitable[web.StreamResponse]]
Act = Callable[[web.Request, Form], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Page:
    """Something to look at; `is_public` opens it without a login."""

    path: str
    handler: Look
    scope: Scope = "read"
    is_public: bool = False


@dataclass(frozen=True, slots=True)
class Deed:
    """A form's target: it gets the form only after the checks; nobody can leave them out."""

    path: str
    handler: Act
    scope: Scope = "admin"
    is_public: bool = False
