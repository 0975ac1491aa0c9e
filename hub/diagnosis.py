"""What `hub doctor` looks at: files, node, Valkey, and every active spoke's key and clock."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any, Final

from aiohttp import ClientSession

from common.clock import SystemClock
from common.configuration import EMBEDDED
from common.directory import announced_url
from common.envelope import ANYONE, EnvelopeType
from common.errors import HubspokeError
from common.introduction import introduce
from common.logs import escape
from common.own_keys import OwnKeys
from common.peer_url import check_peer_url, is_loopback
from common.peers import Peer
from common.post import fetch, open_session
from common.store_guard import MarkFile
from common.valkey import connect
from common.valkey_report import report_valkey
from hub.keyspace import Keyspace
from hub.node import Hub, open_stores
from hub.rights import rights_of
from hub.settings import HubDirectory, load
from hub.webhook_progress import ProgressStore

_CLOCK_LIMIT_S: Final = 10
_DAY_S: Final = 86_400
_OLD_KEY_DAYS: Final = 365
_ANY_SKEW_S: Final = 10 * 365 * 86_400
IDENTITY_PATH: Final = "/federation/v1/identity"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check; `detail` says what is wrong and how to mend it."""

    check: str
    ok: bool
    detail: str

    def to_view(self) -> dict[str, Any]:
        """Return the JSON object."""
        return asdict(self)

    def to_text(self) -> str:
        """Return one line for people."""
        return f"{'ok   ' if self.ok else 'WRONG'}  {self.check:<14}  {escape(self.detail)}"


async def diagnose(directory: HubDirectory) -> list[Finding]:
    """Return the findings; what depends on files that cannot be read is left out."""
    try:
        hub = Hub.load(directory, load(directory))
    except HubspokeError as error:
        return [Finding("files", False, error.message)]
    findings = [_check_key(hub)]
    findings.append(await _checked("valkey", lambda: _check_valkey(hub)))
    findings.append(await _checked("store", lambda: _check_store(hub)))
    findings.append(_check_url(hub))
    findings.append(await _checked("rotation", lambda: _check_rotation(hub)))
    findings.append(await _checked("webhooks", lambda: _check_webhooks(hub)))
    findings += [finding async for finding in _check_spokes(hub)]
    return findings


def _check_key(hub: Hub) -> Finding:
    path = hub.key_files.current
    age_days = int((SystemClock().now_ms() / 1000 - path.stat().st_mtime) // _DAY_S)
    detail = f"configuration, key ({hub.key.public.fingerprint}) and token in {hub.directory.path}"
    if age_days < 0:
        return Finding("files", False, f"{path} lies in the future: set this machine's clock, run a time service")
    if age_days > _OLD_KEY_DAYS:
        detail += f"; the key is {age_days} days old: hub keys rotate"
    return Finding("files", True, detail)


async def _check_rotation(hub: Hub) -> str:
    """Return who knows our key; raises `HubspokeError` naming a spoke that refused it, or a key file that is gone."""
    with closing(hub.open_audit()) as audit, closing(hub.open_trust(audit)) as trust:
        fingerprint = OwnKeys(hub.key_files, trust).current.public.fingerprint
        unaware = trust.current().unaware()
    refused = [f"{peer.instance} ({peer.rotation_problem})" for peer in unaware if peer.rotation_problem]
    if refused:
        raise HubspokeError(f"not taken by {', '.join(refused)}: see hub keys show", code="rotation")
    waiting = ", ".join(peer.instance for peer in unaware)
    return f"{waiting} has yet to hear of {fingerprint}" if waiting else f"all spokes know {fingerprint}"


async def _checked(check: str, look: Callable[[], Awaitable[str]]) -> Finding:
    try:
        return Finding(check, True, await look())
    except HubspokeError as error:
        return Finding(check, False, error.message)


async def _check_valkey(hub: Hub) -> str:
    report = await report_valkey(hub.directory, hub.settings.valkey, rights_of(hub.me.instance), "hub serve")
    if report.exposed:
        raise HubspokeError(f"{report.detail}: write valkeys:// in [valkey] url", code="valkey_url")
    return report.detail


async def _check_store(hub: Hub) -> str:
    """Return that the store is the known one; raises `HubspokeError` when it was lost a short while ago."""
    mark = MarkFile(hub.directory.path).read()
    told = None if mark is None else mark.tell(hub.me.skew_s, SystemClock().now_ms() / 1000)
    if told is not None:
        raise HubspokeError(f"{told}; it ends by itself, find out who emptied or replaced the store")
    return "the one that this hub worked with"


async def _check_webhooks(hub: Hub) -> str:
    """Return that all are told; raises `HubspokeError` naming those that are not, or whose secret is gone."""
    with open_stores(hub) as stores:
        webhooks = stores.webhooks.list()
        for webhook in webhooks:
            stores.webhooks.secret_of(webhook.webhook_id)
    section = hub.settings.valkey
    if not webhooks or (section.url == EMBEDDED and announced_url(hub.directory.path) is None):
        return f"{len(webhooks)}, of which nothing is wrong in the files" if webhooks else "there are none"
    async with connect(hub.directory.valkey_target(section)) as client:
        progress = ProgressStore(client, Keyspace(hub.me.instance))
        known = [(webhook, await progress.load(webhook.webhook_id)) for webhook in webhooks]
    troubled = [f"{webhook.webhook_id} {how.state}" for webhook, how in known if how.state != "active"]
    if troubled:
        raise HubspokeError(f"{', '.join(troubled)}: see hub webhook show", code="webhooks")
    return f"{len(webhooks)}, told up to now"


def _check_url(hub: Hub) -> Finding:
    url = hub.settings.node.url or announced_url(hub.directory.path)
    if url is None:
        return Finding("url", False, "nobody knows how to reach this hub: set [node] url in hub.toml")
    if not url.startswith("https://") and not is_loopback(url):
        detail = f"{url} carries the admin token in the clear: put TLS in front and set [node] url to https://"
        return Finding("url", False, detail)
    return Finding("url", True, url)


async def _check_spokes(hub: Hub) -> AsyncIterator[Finding]:
    with closing(hub.open_audit()) as audit, closing(hub.open_trust(audit)) as trust:
        spokes = [peer for peer in trust.current().peers() if peer.state == "active"]
    async with open_session(hub.reach) as session:
        for peer in spokes:
            yield await _checked(f"spoke {peer.instance}", _Look(session, peer))


@dataclass(frozen=True, slots=True)
class _Look:
    """Fetches a spoke's identity and compares key and clock."""

    session: ClientSession
    peer: Peer

    async def __call__(self) -> str:
        if self.peer.url is None:
            return "has no URL: it dials in by itself"
        raw = await fetch(self.session, "GET", check_peer_url(self.peer.url) + IDENTITY_PATH)
        now_s = SystemClock().now_ms() / 1000
        said = introduce(raw, EnvelopeType.IDENTITY, audience=ANYONE, now_s=now_s, skew_s=_ANY_SKEW_S)
        if (said.instance, said.key) != (self.peer.instance, self.peer.current_key):
            who = f"{said.instance} with {said.key.fingerprint}"
            raise HubspokeError(f"{self.peer.url} answers as {who}: if it has not rotated, join it again")
        skew_s = round(said.claims.iat - now_s)
        if abs(skew_s) > _CLOCK_LIMIT_S:
            raise HubspokeError(f"its clock differs from ours by {skew_s} s: run a time service on both machines")
        return f"answers at {self.peer.url} with the right key, clock within {_CLOCK_LIMIT_S} s"
