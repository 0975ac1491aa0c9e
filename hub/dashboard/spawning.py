"""`/spawn`: the form of a new agent. What is wrong with it is said above it, and nothing that was typed is lost."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from aiohttp import web
from pydantic import ValidationError

from common.clock import Clock
from common.commands import DEFAULT_MAX_ATTEMPTS, DEFAULT_PRIORITY, DEFAULT_TIMEOUT_S
from common.errors import HubspokeError, LocalError
from common.http import invalid_request
from common.ids import is_uuid7
from common.inbox import TrustSource
from hub.agents import Agents
from hub.api.agents import AgentsApi
from hub.api.models import SpawnRequest
from hub.dashboard.answering import done
from hub.dashboard.forms import Form
from hub.dashboard.pages import Pages
from hub.dashboard.route import Deed, Page
from hub.spawning import Wish

_FRESH: Final = {
    "spoke": "",
    "agentType": "worker",
    "taskId": "",
    "repository": "",
    "branch": "main",
    "workItems": "",
    "skills": "",
    "priority": str(DEFAULT_PRIORITY),
    "timeoutS": str(DEFAULT_TIMEOUT_S),
    "maxAttempts": str(DEFAULT_MAX_ATTEMPTS),
}
_NUMBERS: Final = ("priority", "timeoutS", "maxAttempts")
_LABELS: Final = {
    "context.repository": "Repository",
    "context.branch": "Branch",
    "context.workItems": "Work items",
    "context.skills": "Skills",
    "taskId": "Task",
    "timeoutS": "Time limit",
    "maxAttempts": "Attempts",
}


def split_items(text: str) -> list[str]:
    """Return the work items of a text: an empty line stands between two."""
    return [item.strip() for item in re.split(r"\n[ \t]*\n", text) if item.strip()]


def read_spawn(form: Mapping[str, str]) -> SpawnRequest:
    """Return what the form asks for; raises `InvalidRequest` in the form's own words."""
    numbers = {name: int(text) if (text := form[name]).isdecimal() else text for name in _NUMBERS if form.get(name)}
    skills = form["skills"].replace(",", " ").split()
    asked = {
        "agentId": form["agentId"],
        "spoke": form["spoke"],
        "taskId": form["taskId"].strip(),
        "agentType": form["agentType"],
        "context": {
            "repository": form["repository"].strip(),
            "branch": form["branch"].strip(),
            "workItems": split_items(form["workItems"]),
            **({"skills": skills} if skills else {}),
        },
        **numbers,
    }
    try:
        return SpawnRequest.model_validate(asked)
    except ValidationError as error:
        raise invalid_request(error) from error


class SpawnPages:
    """Handlers of the form."""

    def __init__(self, pages: Pages, api: AgentsApi, agents: Agents, trust: TrustSource, clock: Clock) -> None:
        self._pages = pages
        self._api = api
        self._agents = agents
        self._trust = trust
        self._clock = clock

    def pages(self) -> list[Page | Deed]:
        """Return the routes."""
        return [Page("/spawn", self.ask, scope="operate"), Deed("/spawn", self.spawn, scope="operate")]

    async def ask(self, request: web.Request) -> web.Response:
        """Show the form, empty or like the agent `like`."""
        like = request.query.get("like", "")
        known = await self._fields_of(like) if is_uuid7(like) else {}
        given = {"spoke": request.query["spoke"]} if "spoke" in request.query else {}
        # The id is chosen here, so that a form sent twice is one agent.
        return self._show(request, {**_FRESH, **known, **given, "agentId": self._clock.new_id()})

    async def _fields_of(self, agent_id: str) -> dict[str, str]:
        view = (await self._agents.find(agent_id)).to_view()
        context = view["context"]
        known = {"spoke": view["spoke"], "agentType": view["agentType"], "taskId": view["taskId"]}
        if context is None:
            return known
        return {
            **known,
            "repository": context["repository"],
            "branch": context["branch"],
            "workItems": "\n\n".join(context["workItems"]),
            "skills": " ".join(context["skills"]),
        }

    def _show(self, request: web.Request, fields: Form, error: HubspokeError | None = None) -> web.Response:
        active = [peer.instance for peer in self._trust.current().peers() if (peer.kind, peer.state) == _TAKES]
        status = 200 if error is None else error.http_status
        wrong = [] if error is None else _problems(error)
        return self._pages.show(request, "spawn.html", status=status, fields=fields, spokes=active, wrong=wrong)

    async def spawn(self, request: web.Request, form: Form) -> web.Response:
        """Start the agent, or show the form again."""
        fields = {**_FRESH, "agentId": self._clock.new_id(), **{name: form[name] for name in form if name != "csrf"}}
        try:
            wanted = read_spawn(fields)
            (answer,) = await self._api.decide([Wish(wanted.spoke, wanted, wanted.agent_id, wanted.deadline_s)])
            if isinstance(answer, HubspokeError):
                raise answer
        except LocalError:
            raise
        except HubspokeError as error:
            return self._show(request, fields, error)
        return done(request, f"/agents/{answer.agent_id}", f"Taken: it goes to {answer.spoke} as soon as it can.")


_TAKES: Final = ("spoke", "active")


def _problems(error: HubspokeError) -> list[str]:
    wrong: Any = error.extra.get("errors")
    if not wrong:
        return [error.message]
    return [f"{_LABELS.get(_field(each), _field(each))}: {each['problem']}" for each in wrong]


def _field(problem: Mapping[str, str]) -> str:
    return re.sub(r"\.\d+$", "", problem["field"])
