"""`spoke agent`: what runs, waits and has ended on this machine, asked of the running node."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final

import click

from common.command_line import relative_time
from common.commands import DEFAULT_GRACE_S
from spoke.cli.context import SpokeContext, facts

_FOLLOW_PAUSE_S: Final = 0.5
_LOG_LIMIT: Final = 262_144


def _ago(text: str | None) -> str | None:
    return None if text is None else relative_time(datetime.fromisoformat(text).timestamp(), time.time())


@click.group()
def agent() -> None:
    """The agents on this machine, whoever asked for them."""


@agent.command("list")
@click.option("--limit", default=50, show_default=True, help="How many of the newest.")
@click.option("--status", help="Only in this state, such as failed.")
@click.option("--reason", help="Only with this reason, such as attempts_exhausted: the dead letters.")
@click.option("--type", "agent_type", help="Only worker, reviewer or tester.")
@click.option("--task", help="Only of this task.")
@click.option("--peer", help="Only of this hub.")
@facts
def list_agents(context: SpokeContext, limit: int, agent_type: str | None, **wanted: str | None) -> None:
    """List the newest agents that fit."""
    query = {name: value for name, value in {"type": agent_type, **wanted}.items() if value is not None}
    rows = context.call("GET", "/agents", query={"limit": str(limit), **query})["agents"]
    context.out.table(
        rows,
        {
            "AGENT": lambda row: row["agentId"],
            "TASK": lambda row: row["taskId"],
            "TYPE": lambda row: row["agentType"],
            "STATUS": lambda row: row["status"],
            "REASON": lambda row: row["reason"],
            "QUEUED": lambda row: _ago(row["queuedAt"]),
            "PEER": lambda row: row["peer"],
        },
    )


def _path(agent_id: str, what: str) -> str:
    from common.errors import LocalError
    from common.ids import is_uuid7

    if not is_uuid7(agent_id):
        raise LocalError("an agent's id is a UUIDv7 in lower case; see: spoke agent list", code="invalid")
    return f"/agents/{agent_id}/{what}"


def _query(peer: str | None) -> dict[str, str]:
    return {} if peer is None else {"peer": peer}


_peer_option: Final = click.option("--peer", help="Whose agent, where two peers used the same id.")


@agent.command("show")
@click.argument("agent_id", metavar="AGENT")
@_peer_option
@facts
def show_agent(context: SpokeContext, agent_id: str, peer: str | None) -> None:
    """Print one agent's status, result and receipt."""
    context.out.facts(context.call("GET", _path(agent_id, "status"), query=_query(peer)))


@agent.command("kill")
@click.argument("agent_id", metavar="AGENT")
@click.option("--grace", default=DEFAULT_GRACE_S, show_default=True, help="Seconds between SIGTERM and SIGKILL.")
@click.option("--reason", help="A word to whoever asked for the agent.")
@_peer_option
@facts
def kill_agent(context: SpokeContext, agent_id: str, grace: int, reason: str | None, peer: str | None) -> None:
    """Stop an agent, whoever asked for it."""
    body = {"graceS": grace} | ({} if reason is None else {"reason": reason})
    context.out.facts(context.call("POST", _path(agent_id, "kill"), query=_query(peer), body=body))


@agent.command("requeue")
@click.argument("agent_id", metavar="AGENT")
@_peer_option
@facts
def requeue_agent(context: SpokeContext, agent_id: str, peer: str | None) -> None:
    """Queue the work of an agent that failed or was killed again, as a new agent, and print that."""
    context.out.facts(context.call("POST", _path(agent_id, "requeue"), query=_query(peer)))


@agent.command("logs")
@click.argument("agent_id", metavar="AGENT")
@click.option("-f", "--follow", is_flag=True, help="Wait for more until the agent has ended.")
@click.option("--raw", is_flag=True, help="As the agent printed it, control characters too; for files and programs.")
@_peer_option
@facts
def agent_logs(context: SpokeContext, agent_id: str, follow: bool, raw: bool, peer: str | None) -> None:
    """Print what an agent wrote."""
    from common.agent_output import Rendering

    rendering = Rendering()
    for text in _log_pieces(context, _path(agent_id, "logs"), _query(peer), follow):
        # `color`: otherwise what an agent coloured is taken out on the way to a file.
        click.echo(text if raw else _visible(rendering.feed(text.encode())), nl=False, color=True)
    if not raw:
        click.echo(_visible(rendering.flush()), nl=False)


def _log_pieces(context: SpokeContext, path: str, query: dict[str, str], follow: bool) -> Iterator[str]:
    offset = 0
    while True:
        where = {"offset": str(offset), "limit": str(_LOG_LIMIT), **query}
        piece: dict[str, Any] = context.call("GET", path, query=where)
        yield piece["data"]
        advanced = piece["nextOffset"] > offset
        offset = piece["nextOffset"]
        if piece["eof"] or not (advanced or follow):
            return
        if not advanced:
            time.sleep(_FOLLOW_PAUSE_S)


def _visible(text: str) -> str:
    """Escape what an agent may not do to a terminal; lines and tabs stay (attack row 56)."""
    from common.logs import escape

    return "".join(char if char in "\n\t" else escape(char) for char in text)
