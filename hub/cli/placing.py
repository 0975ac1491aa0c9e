"""`hub spawn` on many spokes: one request, a line for each agent, and with `--wait` the progress of all."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing
from typing import Any

import click

from common.command_line import complain, print_json
from hub.answers import Agent, Placed, shown
from hub.cli.output import invocation, show_text
from hub.client import HubClient, Work
from hub.records import ENDED


async def place(work: Work, *, wait: bool, **where: Any) -> bool:
    """Start the work and print what became of each agent; returns whether all were taken, with `wait` completed."""
    from hub.cli.local import client

    async with client() as hub:
        answer = await hub.place(work, **where)
        _print_answer(answer)
        spokes = {each["agentId"]: each["spoke"] for each in answer["agents"] if "error" not in each}
        if not wait:
            return not answer["refused"]
        ended = await _wait_for_all(hub, work.task_id or answer["batchId"], spokes)
    if invocation().as_json:
        print_json({"agents": list(ended.values())})
    return not answer["refused"] and all(shown(agent) == "completed" for agent in ended.values())


def _print_answer(answer: Placed) -> None:
    if invocation().as_json:
        print_json({name: answer[name] for name in ("batchId", "accepted", "refused", "agents") if name in answer})
    for each in answer["agents"]:
        if "error" in each:
            complain(each["error"]["code"], f"{each['spoke']}: {each['error']['detail']}")
        elif not invocation().as_json:
            click.echo(f"{each['agentId']} {show_text(each['spoke'])}")


async def _wait_for_all(hub: HubClient, task_id: str, spokes: dict[str, str]) -> dict[str, Agent]:
    """Return the agents once all have ended; writes a line to stderr as each does."""
    ended: dict[str, Agent] = {}
    async with aclosing(_changed(hub, task_id, spokes)) as changed:
        while len(ended) < len(spokes):
            agent_id = await anext(changed)
            if agent_id in ended or agent_id not in spokes:
                continue
            agent = await hub.agent(agent_id)
            if shown(agent) in ENDED:
                ended[agent_id] = agent
                told = f"{agent_id} {spokes[agent_id]} {shown(agent)}"
                click.echo(f"{len(ended)} of {len(spokes)} ended: {show_text(told)}", err=True)
    return ended


async def _changed(hub: HubClient, task_id: str, agent_ids: Collection[str]) -> AsyncGenerator[str, None]:
    """Yield the agents to look at: all of them whenever the stream begins or may have a gap, then those that change."""
    async with aclosing(hub.follow({"taskId": task_id})) as events:
        async for event in events:
            for agent_id in [event.change["agentId"]] if event.event == "agent" else list(agent_ids):
                yield agent_id
