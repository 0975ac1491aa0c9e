"""What must be true when the faults have stopped: seen from the hub, the spoke, their stores, the disk, the kernel."""

from __future__ import annotations

import fcntl
import json
import os
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from common.errors import HubspokeError
from common.valkey import connect
from tests.spoke_node import processes_of

if TYPE_CHECKING:
    from tests.faults.chaos import Run

_ENDED: Final = frozenset({"completed", "failed", "killed", "refused", "expired"})
_NEVER_COMPLETE: Final = frozenset({"fails", "crashes", "long", "stubborn"})
_OWN: Final = ("valkey-server", "supervision.nursery", "spoke --dir", "spoke serve", "/spoke", "/hub")
_BROKEN: Final = ("agent.attendant_failed", "delivery.crashed", "request.crashed", "store.lost")


async def _of_hub(run: Run) -> dict[str, dict[str, Any]]:
    return {asked.agent_id: await run.hub.agent(asked.agent_id) for asked in run.asked}


async def _of_spoke(run: Run) -> dict[str, dict[str, Any]]:
    return {agent["agentId"]: agent for agent in await run.spoke.agents()}


async def is_over(run: Run) -> list[str]:
    """Return what still goes on: nothing in the end, or it is a violation."""
    try:
        on_hub, on_spoke = await _of_hub(run), await _of_spoke(run)
        _, load = await run.spoke.call("GET", "/queue")
    except (aiohttp.ClientError, OSError) as error:
        return [f"a node does not answer: {error!r}"]
    going_on = []
    for asked in run.asked:
        hub, spoke = on_hub[asked.agent_id], on_spoke.get(asked.agent_id)
        if asked.acknowledged and hub.get("status") not in _ENDED:
            going_on.append(f"{asked.agent_id} ({asked.kind}) is {hub.get('status')} on the hub, {_brief(spoke)} there")
        elif spoke is not None and spoke["status"] not in _ENDED:
            going_on.append(f"{asked.agent_id} ({asked.kind}) is {_brief(spoke)} on the spoke")
    if (load["queued"], load["active"]) != (0, 0):
        going_on.append(f"the spoke's load is {load}")
    return going_on + await _untold(run) + _processes_left(run)


async def _untold(run: Run) -> list[str]:
    """Name the streams of events that the hub has not acknowledged: it may know an end by asking."""
    try:
        async with connect(run.spoke.directory / "valkey") as client:
            keys = [key async for key in client.scan_iter(f"hs:{{{run.spoke.id}}}:events:*")]
            return [f"{key.decode()} waits for the hub" for key in keys if await client.xlen(key)]
    except HubspokeError as error:
        return [f"the spoke's store does not answer: {error.message}"]


async def endings(run: Run) -> list[str]:
    """Return how the agents ended, as the hub tells it."""
    return [
        f"{agent.get('status', 'never asked for')} {agent.get('reason') or ''}".strip()
        for agent in (await _of_hub(run)).values()
    ]


def _brief(agent: dict[str, Any] | None) -> str:
    return "absent" if agent is None else f"{agent['status']} ({agent['reason']}, attempt {agent['attempt']})"


def _processes_left(run: Run) -> list[str]:
    left = processes_of(run.spoke.directory)
    return [
        f"process {pid} is left: {line[:120]}" for pid, line in left.items() if not any(own in line for own in _OWN)
    ]


async def find_violations(run: Run) -> list[str]:
    """Return every promise that was not kept."""
    on_hub, on_spoke = await _of_hub(run), await _of_spoke(run)
    starts = Counter((start["agentId"], start["attempt"]) for start in run.spoke.executions())
    violations = [
        f"{agent} was started {n} times in attempt {attempt}" for (agent, attempt), n in starts.items() if n > 1
    ]
    violations += [f"{agent_id} was started again while it was alive" for agent_id in run.twins]
    asked_ids = {asked.agent_id for asked in run.asked}
    violations += [
        f"{agent_id} was started, and nobody asked for it" for agent_id, _ in starts if agent_id not in asked_ids
    ]
    for asked in run.asked:
        attempts = [attempt for agent_id, attempt in starts if agent_id == asked.agent_id]
        violations += _of_agent(asked, on_hub[asked.agent_id], on_spoke.get(asked.agent_id), attempts)
    return violations + await _stores(run) + _locks(run) + _logs(run)


def _of_agent(asked: Any, hub: dict[str, Any], spoke: dict[str, Any] | None, attempts: list[int]) -> list[str]:
    name = f"{asked.agent_id} ({asked.kind})"
    found = []
    if asked.acknowledged and not hub:
        found.append(f"{name} was acknowledged and is forgotten")
    if spoke is None:
        if attempts or hub.get("status") in {"completed", "failed", "killed"}:
            found.append(f"{name} is unknown on the spoke, {hub.get('status')} on the hub, started in {attempts}")
        return found
    if hub and (hub["status"], hub["seq"], hub["reason"]) != (spoke["status"], spoke["seq"], spoke["reason"]):
        found.append(f"{name} is {_brief(hub)} on the hub and {_brief(spoke)} on the spoke")
    if hub and hub["result"] != spoke["result"]:
        found.append(f"{name} has another result on the hub")
    if any(attempt > spoke["attempt"] for attempt in attempts):
        found.append(f"{name} was started in attempts {attempts}, its record tells of {spoke['attempt']}")
    if spoke["status"] == "completed" and (asked.kind in _NEVER_COMPLETE or spoke["attempt"] not in attempts):
        found.append(f"{name} is completed, and was started in attempts {attempts}")
    if asked.resumed_after is not None and spoke["attempt"] <= asked.resumed_after:
        found.append(f"{name} was resumed after attempt {asked.resumed_after} and is {_brief(spoke)}")
    if asked.resumed_after is not None and spoke["status"] == "completed" and spoke["result"]["diffStat"]["files"] != 1:
        found.append(f"{name} was resumed and its work of before is gone: {spoke['result']['diffStat']}")
    if spoke["status"] == "killed" and not asked.kill_acknowledged:
        found.append(f"{name} is killed, and nobody asked for that")
    return found


async def _stores(run: Run) -> list[str]:
    """Nothing waits, is held or is counted in either store."""
    found = []
    async with connect(run.spoke.directory / "valkey") as client:
        prefix = f"hs:{{{run.spoke.id}}}:"
        for key in ("leases", "backoff", "waiting"):
            if await client.zcard(prefix + key):
                found.append(f"the spoke's {key} are not empty")
        for key in [key async for key in client.scan_iter(f"{prefix}load*")]:
            counts: Any = await client.hgetall(key)
            found += [f"{key.decode()} {name.decode()} is {int(n)}" for name, n in counts.items() if int(n)]
        for key in [key async for key in client.scan_iter(f"{prefix}env:*")]:
            live: Any = await client.hget(key, "live")
            if int(live) or await client.pttl(key) < 0:
                found.append(f"{key.decode()} is kept for {int(live)} living agents")
        for key in [key async for key in client.scan_iter(f"{prefix}events:*")]:
            if await client.xlen(key):
                found.append(f"{key.decode()} holds events that the hub has not acknowledged")
    async with connect(run.hub.directory / "valkey") as client:
        if await client.scard(f"hs:{{{run.hub.id}}}:outboxes"):
            found.append("the hub's outbox is not empty")
    return found


def _locks(run: Run) -> list[str]:
    workspaces = run.spoke.directory / "workspaces"
    ours = [*run.spoke.directory.glob("runs/*/*/*/keeper.lock"), *workspaces.glob("mirrors/*/*.lock")]
    found = [f"{path} is left" for path in workspaces.glob("**/*.lock") if path not in ours]
    for path in ours:
        descriptor = os.open(path, os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            found.append(f"{path} is held")
        finally:
            os.close(descriptor)
    return found


def _logs(run: Run) -> list[str]:
    found = []
    for text in (run.hub.log(), run.spoke.log()):
        for line in text.splitlines():
            event = json.loads(line)["event"] if line.startswith("{") else line if "Traceback" in line else ""
            if event in _BROKEN or "Traceback" in event:
                found.append(f"the log says: {line[:600]}")
    return found
