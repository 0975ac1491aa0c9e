"""`hub top`: spokes and agents on one screen, live; what fits the terminal, the busiest first.

Drawn anew when the hub tells of a change, at most once a second, and now and then for what changes without one. A hub
that restarts is waited for. Without a terminal, or with `--once`, it is printed once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import click

from common.command_line import PIPE_WIDTH, print_json
from hub.cli.frame import node_options
from hub.cli.output import invocation, show_text, show_time

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from hub.answers import Agent, Peer
    from hub.client import HubClient

LIVING: Final = ("running", "spawning", "queued", "pending")
_PAUSE_S: Final = 1.0
_LOOK_EVERY_S: Final = 5.0
_WIDE: Final = 110
"""Columns from which on an agent's id is shown as a whole."""
_CHROME: Final = 4
"""Lines that hold no row: two heads, what is between them, and the last."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What the screen shows: every spoke, and the agents in the order of `LIVING`, then the newest that ended."""

    spokes: list[Peer]
    agents: list[Agent]


async def look(hub: HubClient, most: int) -> Seen:
    """Return what there is, at most so many agents."""
    from hub.answers import shown
    from hub.records import ENDED

    agents: list[Agent] = []
    for status in LIVING:
        if len(agents) < most:
            agents += (await hub.agents(status=status, limit=most - len(agents)))["agents"]
    if len(agents) < most:
        newest = (await hub.agents(limit=most))["agents"]
        agents += [agent for agent in newest if shown(agent) in ENDED][: most - len(agents)]
    return Seen(await hub.peers(), agents)


def draw(seen: Seen, width: int, height: int) -> Group:
    """Return the screen of that size; where not all spokes fit beside agents, half of it is theirs."""
    from rich.console import Group
    from rich.text import Text

    room = max(height - _CHROME, 2)
    most_spokes = max(room // 2, room - len(seen.agents))
    spokes, agents = seen.spokes[:most_spokes], seen.agents[: room - min(len(seen.spokes), most_spokes)]
    left = len(seen.spokes) - len(spokes), len(seen.agents) - len(agents)
    more = f"{left[0]} spokes and {left[1]} agents more; " if any(left) else ""
    return Group(
        _spokes(spokes),
        "",
        _agents(agents, width),
        Text(f"{more}q or Ctrl-C leaves", style="dim", no_wrap=True, overflow="ellipsis"),
    )


def _table(*columns: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", expand=True)
    for column in columns:
        table.add_column(column, overflow="ellipsis", no_wrap=True)
    return table


def _spokes(spokes: list[Peer]) -> Table:
    table = _table("SPOKE", "STATE", "LINK", "RUNS", "WAITS", "LAST CONTACT", "TROUBLE")
    for spoke in spokes:
        capacity: dict[str, Any] = (spoke["told"] or {}).get("capacity") or {}
        runs = f"{capacity['running']}/{capacity['agents']}" if {"running", "agents"} <= capacity.keys() else "-"
        error = spoke["lastError"] if spoke["failures"] else None
        trouble = "frozen" if spoke["frozen"] else show_text(error and error["detail"])
        contact = show_time(spoke["lastContactAt"]).partition(" (")[0]
        table.add_row(*_cells(spoke["id"], spoke["state"], "up" if spoke["link"] else "-", runs), *_cells(
            str(spoke["pending"]), contact, trouble))  # fmt: skip
    return table


def _agents(agents: list[Agent], width: int) -> Table:
    from hub.answers import shown

    table = _table("AGENT", "STATUS", "TASK", "TYPE", "SPOKE", "SINCE", "REASON")
    for agent in agents:
        since = agent["finishedAt"] or agent["startedAt"] or agent["queuedAt"] or agent["createdAt"]
        # Where there is no room for all of it, the end tells agents of one moment apart.
        agent_id = agent["agentId"] if width >= _WIDE else f"…{agent['agentId'][-12:]}"
        table.add_row(*_cells(agent_id, shown(agent), show_text(agent["taskId"]), agent["agentType"]), *_cells(
            show_text(agent["spoke"]), show_time(since).partition(" (")[0], show_text(agent["reason"])))  # fmt: skip
    return table


def _cells(*texts: str) -> list[Any]:
    from rich.text import Text

    from common.command_line import style_of

    return [Text(text, style=style_of(text)) for text in texts]


@contextlib.contextmanager
def _keys(leave: asyncio.Event) -> Iterator[None]:
    """Have `q` set the event; the terminal is as before afterwards."""
    if not sys.stdin.isatty():
        yield
        return
    import termios
    import tty

    fd, loop = sys.stdin.fileno(), asyncio.get_running_loop()
    before = termios.tcgetattr(fd)

    def read() -> None:
        if b"q" in os.read(fd, 64).lower():
            leave.set()

    tty.setcbreak(fd)
    loop.add_reader(fd, read)
    try:
        yield
    finally:
        loop.remove_reader(fd)
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


async def _changes(hub: HubClient, changed: asyncio.Event) -> None:
    async with contextlib.aclosing(hub.follow({})) as events:
        async for _ in events:
            changed.set()


async def _ticks(changed: asyncio.Event, leave: asyncio.Event) -> AsyncIterator[None]:
    """Yield at once, then after changes, until somebody leaves."""
    while not leave.is_set():
        changed.clear()
        yield
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PAUSE_S):
                await leave.wait()
        waiting = [asyncio.ensure_future(event.wait()) for event in (changed, leave)]
        await asyncio.wait(waiting, timeout=_LOOK_EVERY_S, return_when=asyncio.FIRST_COMPLETED)
        for each in waiting:
            each.cancel()


async def _live(hub: HubClient) -> None:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from hub.client import NodeUnreachable

    changed, leave = asyncio.Event(), asyncio.Event()
    console = Console(highlight=False)
    following = asyncio.ensure_future(_changes(hub, changed))
    try:
        with Live(console=console, screen=True, auto_refresh=False) as live, _keys(leave):
            async for _ in _ticks(changed, leave):
                try:
                    shown: Any = draw(await look(hub, console.size.height), *console.size)
                except NodeUnreachable as error:
                    shown = Text(f"{error.message}; waiting for it", style="red")
                live.update(shown, refresh=True)
    finally:
        following.cancel()
        await asyncio.wait([following])


@click.command()
@click.option("--once", is_flag=True, help="Print it once and end; so it is without a terminal, too.")
@node_options
def top(once: bool) -> None:
    """Watch spokes and agents, live; q or Ctrl-C leaves."""
    from hub.cli.local import ask, client

    async def show() -> Seen | None:
        async with client() as hub:
            if once or invocation().as_json or not sys.stdout.isatty():
                return await look(hub, 1000 if invocation().as_json else shutil.get_terminal_size().lines)
            await _live(hub)
            return None

    seen = ask(show())
    if seen is None:
        return
    if invocation().as_json:
        print_json({"spokes": seen.spokes, "agents": seen.agents})
        return
    from rich.console import Console

    console = Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)
    console.print(draw(seen, console.width, len(seen.spokes) + len(seen.agents) + _CHROME))
