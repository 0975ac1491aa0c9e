"""Publishes what an agent that completed has committed: its branch goes to where its type's `push` says.

Its commits only: what it left uncommitted stays in the mirror. A push that fails costs the agent nothing: its result
says so, the operator finds the cause in the detail, and the commits are kept as always. May run twice, after a crash:
the same commit on the same branch is no change.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import structlog

from common.errors import NotAllowed
from spoke.changes import Changes
from spoke.conclusion import Outcome
from spoke.push import PushConfig, PushTarget
from spoke.workspace import Workspace, WorkspaceFailed, Workspaces

PAUSES_S: Final = (1.0, 5.0)
_MEMBER: Final = "push"
_log: Final = structlog.get_logger("agent")


async def publish(
    workspaces: Workspaces,
    config: PushConfig | None,
    workspace: Workspace | None,
    changes: Changes | None,
    outcome: Outcome,
    pauses_s: Sequence[float] = PAUSES_S,
) -> Outcome:
    """Push, where there is anything to, and return the outcome with `push` in its data."""
    if config is None or workspace is None or changes is None:
        return outcome
    if outcome.verdict.status != "completed" or changes.head == workspace.base:
        return outcome
    branch = config.branch_of(workspace.agent_id)
    pushed: dict[str, str | None] = {"branch": branch, "sha": changes.head, "error": None}
    try:
        target = config.target(workspace.agent_id, workspace.repository)
        await _push(workspaces, workspace, changes.head, target, pauses_s)
    except (NotAllowed, WorkspaceFailed) as error:
        _log.warning("agent.not_pushed", branch=branch, reason=error.message)
        code = "push_failed" if isinstance(error, WorkspaceFailed) else error.code
        return _told(outcome, {**pushed, "error": code}, error.message)
    _log.info("agent.pushed", branch=branch, sha=changes.head)
    return _told(outcome, pushed)


async def _push(
    workspaces: Workspaces, workspace: Workspace, sha: str, target: PushTarget, pauses_s: Sequence[float]
) -> None:
    for pause_s in (*pauses_s, None):
        try:
            await workspaces.push(workspace, sha, target)
        except WorkspaceFailed as error:
            if not error.retryable or pause_s is None:
                raise
            await asyncio.sleep(pause_s)
        else:
            return


def _told(outcome: Outcome, pushed: dict[str, str | None], *problems: str) -> Outcome:
    # After the agent's own data: it cannot say that something was pushed.
    data = {**(outcome.result["data"] or {}), _MEMBER: pushed}
    return replace(outcome, result={**outcome.result, "data": data}, problems=(*outcome.problems, *problems))
