"""What `doctor` says of a node's Valkey: whether it keeps what it acknowledges, who reads along, what is lacking."""

from __future__ import annotations

from dataclasses import dataclass

from common.configuration import EMBEDDED, NodeDirectory, ValkeySection
from common.directory import announced_url
from common.embedded_valkey import find_binary
from common.valkey import connect, travels_in_the_clear
from common.valkey_rights import Rights, check_server


@dataclass(frozen=True, slots=True)
class ValkeyReport:
    """`detail` is for people; `shortfalls` were allowed by `allow_data_loss`; `exposed`: others could read along."""

    detail: str
    shortfalls: tuple[str, ...] = ()
    exposed: bool = False


async def report_valkey(directory: NodeDirectory, section: ValkeySection, rights: Rights, command: str) -> ValkeyReport:
    """Look at the Valkey of a node that is started by `command`; raises what `check_server` and `connect` do."""
    embedded = section.url == EMBEDDED
    if embedded and announced_url(directory.path) is None:
        return ValkeyReport(
            f"embedded, started by {command}; the node does not run now ({find_binary().name} is there)"
        )
    async with connect(directory.valkey_target(section)) as client:
        return describe(section.url, await check_server(client, rights, section.allow_data_loss))


def describe(url: str, shortfalls: tuple[str, ...]) -> ValkeyReport:
    """Return what there is to say of a server that passed `check_server`."""
    kept = f"may lose data, which was allowed: {'; '.join(shortfalls)}" if shortfalls else "keeps what it acknowledges"
    exposed = url != EMBEDDED and travels_in_the_clear(url)
    return ValkeyReport(f"{kept}; {_way(url, exposed=exposed)}; our user has every right it needs", shortfalls, exposed)


def _way(url: str, *, exposed: bool) -> str:
    if exposed:
        return "reached without TLS: whoever is on the way reads work items and the password"
    if url == EMBEDDED:
        return EMBEDDED
    return "reached by TLS" if url.startswith(("rediss://", "valkeys://")) else "reached on this machine only"
