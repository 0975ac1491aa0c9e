"""What `spoke doctor` looks at: files, node, Valkey, disk, git, programs, sandbox, policy, machines, hubs and clocks.

Each check gives one finding: `ok`, `warn` (works, and is worth knowing) or `bad` (mend it first), with the way to mend
it. Changes nothing, and needs no running node.
"""

from __future__ import annotations

import getpass
import os
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aiohttp import ClientSession

from common.agent_state import AGENT_TYPES, AgentType
from common.clock import SystemClock
from common.command_line import Unreachable
from common.configuration import EMBEDDED
from common.directory import announced_url
from common.errors import HubspokeError, LocalError
from common.peer_url import check_peer_url
from common.peers import Peer
from common.post import open_session
from common.store_guard import MarkFile
from common.valkey_report import report_valkey
from spoke.app import Spoke
from spoke.client import LocalClient
from spoke.finding import Finding
from spoke.git import Git
from spoke.machines.diagnosis import check_machines, check_node_of_machine
from spoke.profiles import AgentConfig, Profile, Shelf
from spoke.prompts import Prompts
from spoke.rights import rights_of
from spoke.sandbox import find_program, probe
from spoke.settings import SpokeDirectory, load
from spoke.who_answers import ask_who_answers, compare_clocks

_OLDEST_GIT: Final = (2, 31)
"""The first that reads its configuration from GIT_CONFIG_COUNT, which a repository cannot beat."""
_GIT_TIMEOUT_S: Final = 10
_LITTLE_DISK_BYTES: Final = 1024**3
_OLD_KEY_DAYS: Final = 365
_DAY_S: Final = 86_400


async def diagnose(directory: SpokeDirectory, environment: Mapping[str, str]) -> list[Finding]:
    """Return the findings; what depends on files that cannot be read is left out."""
    try:
        spoke = Spoke.load(directory, load(directory))
    except HubspokeError as error:
        return [Finding("files", "bad", error.message)]
    findings = [_check_key(spoke)]
    works_for = spoke.settings.machine
    if works_for is None:
        findings.append(await _check_node(spoke))
    else:
        findings.append(await _checked("node", lambda: check_node_of_machine(spoke, works_for)))
    findings.append(await _checked("valkey", lambda: _check_valkey(spoke)))
    if works_for is None:
        findings.append(await _checked("store", lambda: _check_store(spoke)))
    findings += [_check_disk(directory), await _check_git(environment)]
    for agent_type in AGENT_TYPES:
        config = spoke.settings.agents.get(agent_type, AgentConfig())
        findings.append(_check_profile(agent_type, config, directory.path, environment))
        findings.append(_check_sandbox(agent_type, config, environment))
        if config.push is not None and config.push.credential_helper is not None:
            findings.append(_check_helper(agent_type, config.push.credential_helper))
    if works_for is None:
        findings.append(_check_policy(spoke))
        try:
            findings += [*await check_machines(spoke), *[finding async for finding in _check_hubs(spoke)]]
        except HubspokeError as error:
            findings.append(Finding("trust", "bad", error.message))
    return findings


async def _checked(check: str, look: Callable[[], Awaitable[Finding]]) -> Finding:
    try:
        return await look()
    except HubspokeError as error:
        return Finding(check, "bad", error.message)


def _check_key(spoke: Spoke) -> Finding:
    path = spoke.directory.key_file(spoke.settings.node.id)
    age_days = int((SystemClock().now_ms() / 1000 - path.stat().st_mtime) // _DAY_S)
    detail = f"configuration, key ({spoke.key.public.fingerprint}) and token in {spoke.directory.path}"
    if age_days > _OLD_KEY_DAYS:
        return Finding("files", "warn", f"{detail}; the key is {age_days} days old", "rotate it: spoke keys rotate")
    if age_days < 0:
        return Finding("files", "bad", f"{path} lies in the future", "set this machine's clock, run a time service")
    return Finding("files", "ok", detail)


async def _check_node(spoke: Spoke) -> Finding:
    url = announced_url(spoke.directory.path)
    if url is None:
        return Finding("node", "warn", "does not run now", "start it: spoke serve")
    try:
        await LocalClient(url, spoke.token, spoke.settings.tls.of_oneself(spoke.directory.path)).call("GET", "/readyz")
    except Unreachable:
        return Finding("node", "warn", f"announced {url} and does not answer there", "start it: spoke serve")
    except HubspokeError as error:
        return Finding("node", "bad", f"runs at {url} and is not ready: {error.message}", "see its log")
    return Finding("node", "ok", f"runs at {url}")


async def _check_valkey(spoke: Spoke) -> Finding:
    section, works_for = spoke.settings.valkey, spoke.settings.machine
    if works_for is not None and section.url == EMBEDDED:
        mend = f"set [valkey] url to the Valkey of {works_for.spoke}"
        return Finding("valkey", "bad", "a machine has no queue of its own", mend)
    rights = rights_of(spoke.me.instance if works_for is None else works_for.spoke)
    report = await report_valkey(spoke.directory, section, rights, "spoke serve")
    if report.exposed:
        return Finding("valkey", "warn", report.detail, "write valkeys:// in [valkey] url")
    return Finding("valkey", "warn" if report.shortfalls else "ok", report.detail)


async def _check_store(spoke: Spoke) -> Finding:
    """Say whether the store was lost a short while ago."""
    mark = MarkFile(spoke.directory.path).read()
    told = None if mark is None else mark.tell(spoke.me.skew_s, SystemClock().now_ms() / 1000)
    if told is not None:
        return Finding("store", "bad", told, "it ends by itself; find out who emptied or replaced the store")
    return Finding("store", "ok", "the one that this spoke worked with")


def _check_disk(directory: SpokeDirectory) -> Finding:
    free = shutil.disk_usage(directory.path).free
    detail = f"{free / 1024**3:.1f} GiB free at {directory.path}"
    if free < _LITTLE_DISK_BYTES:
        return Finding("disk", "bad", detail, "make room: queue, mirrors, workspaces and logs lie there")
    return Finding("disk", "ok", detail)


async def _check_git(environment: Mapping[str, str]) -> Finding:
    try:
        text = (await Git(environment).run("--version", timeout_s=_GIT_TIMEOUT_S)).decode(errors="replace").strip()
    except HubspokeError as error:
        return Finding("git", "bad", error.message, "install git")
    found = re.search(r"(\d+)\.(\d+)", text)
    if found is None or (int(found[1]), int(found[2])) < _OLDEST_GIT:
        return Finding("git", "bad", text, "install git 2.31 or newer")
    return Finding("git", "ok", text)


def _check_profile(
    agent_type: AgentType, config: AgentConfig, directory: Path, environment: Mapping[str, str]
) -> Finding:
    profile = Shelf(directory).resolve(config, agent_type)
    try:
        if profile.prompt_via != "stdin-json":
            Prompts(directory).check(agent_type)
    except LocalError as error:
        return Finding(f"agents.{agent_type}", "bad", error.message)
    return _check_program(agent_type, config, profile, environment)


def _check_program(agent_type: str, config: AgentConfig, profile: Profile, environment: Mapping[str, str]) -> Finding:
    check = f"agents.{agent_type}"
    program = profile.command[0]
    if shutil.which(program, path=environment.get("PATH")) is None:
        mend = profile.install or f"install it, or name another command in [agents.{agent_type}]"
        return Finding(check, "bad", f"profile {profile.name}: there is no program {program}", mend)
    # Of what the profile itself lists one is enough, of what the operator lists everything is meant.
    own = profile.env[: len(profile.env) - len(config.env)]
    missing = [f"{name} is not set" for name in config.env if name not in environment]
    if profile.install and own and not any(name in environment for name in profile.env):
        missing.append(f"none of {', '.join(own)} is set")
    if missing:
        detail = f"profile {profile.name}: {' and '.join(missing)} here, so agents will not have it"
        return Finding(check, "warn", detail, "set it where spoke serve is started")
    return Finding(check, "ok", f"profile {profile.name} runs {program}")


def _check_sandbox(agent_type: str, config: AgentConfig, environment: Mapping[str, str]) -> Finding:
    check = f"sandbox.{agent_type}"
    if config.sandbox == "none":
        detail = f"none: these agents run as {_user()} and can read and change whatever that user can"
        return Finding(check, "warn", detail, f'set sandbox = "{"bwrap"}" in [agents.{agent_type}]')
    program = find_program(environment.get("PATH"))
    if program is None:
        return Finding(check, "bad", "there is no bwrap, so no such agent is started", "install bubblewrap")
    problem = probe(program)
    if problem is not None:
        return Finding(check, "bad", problem, "allow unprivileged user namespaces on this machine")
    return Finding(check, "ok", f"{program} works here")


def _check_helper(agent_type: str, helper: str) -> Finding:
    """Say whether git could ask for credentials; whether they are right, only the repository knows."""
    check = f"push.{agent_type}"
    if not os.access(helper, os.X_OK):
        mend = f"install it, or change credential_helper in [agents.{agent_type}.push]"
        return Finding(check, "bad", f"{helper} is no program that can be run here, so nothing is pushed", mend)
    return Finding(check, "ok", f"credentials come from {helper}")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in many containers
        return f"user {os.getuid()}"


def _check_policy(spoke: Spoke) -> Finding:
    policy = spoke.settings.policy
    empty = [name for name in ("commands", "agent_types", "repositories") if not getattr(policy, name)]
    if empty:
        detail = (
            f"{' and '.join(f'policy.{name}' for name in empty)} is empty: no hub without rules of its own can spawn"
        )
        return Finding("policy", "warn", detail, "list what is allowed in [policy] of spoke.toml")
    return Finding("policy", "ok", f"repositories {', '.join(policy.repositories)}")


async def _check_hubs(spoke: Spoke) -> AsyncIterator[Finding]:
    with closing(spoke.open_audit()) as audit, closing(spoke.open_trust(audit)) as trust:
        hubs = [peer for peer in trust.current().peers() if peer.kind == "hub"]
    if not hubs:
        yield Finding("hubs", "warn", "there is none", "join one: spoke join INVITE")
    async with open_session(spoke.reach) as session:
        for hub in hubs:
            if hub.state != "active":
                yield Finding(f"hub {hub.instance}", "warn", f"is {hub.state}", f"see: spoke peer show {hub.instance}")
            else:
                yield await _checked(f"hub {hub.instance}", _Look(session, hub))


@dataclass(frozen=True, slots=True)
class _Look:
    """Fetches a hub's identity and compares key and clock."""

    session: ClientSession
    hub: Peer

    async def __call__(self) -> Finding:
        hub, check = self.hub, f"hub {self.hub.instance}"
        if hub.url is None:
            return Finding(check, "warn", "has no URL: events can only go to it over a link of its own making")
        url = check_peer_url(hub.url)
        said = await ask_who_answers(self.session, url)
        if (said.instance, said.key) != (hub.instance, hub.current_key):
            detail = f"{url} answers as {said.instance} with {said.key.fingerprint}"
            mend = "it tells of a rotation by itself; otherwise compare fingerprints with its admin, and join it again"
            return Finding(check, "bad", detail, mend)
        return compare_clocks(check, said, f"answers at {url} with the right key")
