"""What `spoke doctor` says of machines: at the node which have a link, on a machine whether the node lets it in."""

from __future__ import annotations

from contextlib import closing

from common.directory import announced_url
from common.errors import HubspokeError
from common.post import open_session
from spoke.client import LocalClient
from spoke.finding import Finding
from spoke.machines.process import ID_FILE
from spoke.machines.registry import Machines
from spoke.node import Spoke
from spoke.settings import MachineSection
from spoke.who_answers import ask_who_answers, compare_clocks


async def check_machines(spoke: Spoke) -> list[Finding]:
    """Say of each machine of the node whether it has a link; nothing where there are none."""
    with closing(spoke.open_audit()) as audit, closing(spoke.open_trust(audit)) as trust:
        machines = Machines(trust).all()
    if not machines:
        return []
    linked = await _linked(spoke)
    return [_about(machine.name, linked.get(machine.id)) for machine in machines]


async def _linked(spoke: Spoke) -> dict[str, bool]:
    url = announced_url(spoke.directory.path)
    try:
        if url is None:
            return {}
        client = LocalClient(url, spoke.token, spoke.settings.tls.of_oneself(spoke.directory.path))
        told: dict[str, bool] = (await client.call("GET", "/machines"))["linked"]
    except HubspokeError:  # why, says the check of the node
        return {}
    return told


def _about(name: str, linked: bool | None) -> Finding:
    check = f"machine {name}"
    if linked is None:
        return Finding(check, "warn", "the node cannot be asked whether it has a link", "see the check of the node")
    if linked:
        return Finding(check, "ok", "has a link")
    mend = f"on {name}: spoke machine work, and its log; when it is gone for good: spoke machine forget {name}"
    return Finding(check, "warn", "has no link, so it starts nothing", mend)


async def check_node_of_machine(spoke: Spoke, works_for: MachineSection) -> Finding:
    """Say on a machine whether its node answers, as whom, by which clock, and has let it in; raises `HubspokeError`."""
    url = works_for.node_url
    async with open_session(spoke.reach) as session:
        said = await ask_who_answers(session, url)
    if said.instance != works_for.spoke:
        mend = "correct node_url in [machine] of spoke.toml"
        return Finding("node", "bad", f"{url} is {said.instance}, not {works_for.spoke}", mend)
    if not (spoke.directory.path / ID_FILE).exists():
        mend = f"there: spoke machine add {spoke.me.instance} KEY; here: spoke machine work"
        return Finding("node", "warn", f"{works_for.spoke} answers, and has not let this machine in yet", mend)
    return compare_clocks("node", said, f"{works_for.spoke} answers at {url}")
