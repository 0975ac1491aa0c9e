"""What agents committed goes to a real remote, or the result says that it did not; nothing of it is lost either way."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from common.repository import Repository, parse_repository
from spoke.conclusion import Outcome
from spoke.git import Git
from spoke.outcome import Verdict
from spoke.publication import publish
from spoke.push import PushConfig, PushTarget
from spoke.workspace import Workspace, WorkspaceFailed, Workspaces
from tests.certificates import Authority
from tests.integration.spoke.repositories import commit, git, make_repository, write
from tests.peer import HubPeer
from tests.spoke_node import SpokeNode, tables

AGENT = "01990000-0000-7000-8000-000000000001"
BRANCH = f"agents/{AGENT}"
COMPLETED = Verdict("completed", None)
SECRET = "only-the-helper-knows"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "source")


@pytest.fixture
def workspaces(tmp_path: Path) -> Workspaces:
    return Workspaces(tmp_path / "spoke", git=Git(os.environ), timeout_s=20)


@pytest.fixture
async def workspace(workspaces: Workspaces, source: Path) -> Workspace:
    return await workspaces.prepare("hub-eu", AGENT, repository_at(source), "main")


def repository_at(path: Path) -> Repository:
    return parse_repository(f"file://{path}")


def outcome(verdict: Verdict = COMPLETED) -> Outcome:
    return Outcome(verdict, {"summary": "done", "data": {"a": 1, "push": "the agent's own word"}}, ("first",))


def anywhere(**members: str) -> PushConfig:
    return PushConfig.model_validate({"repositories": ["file:///**", "https://**"], **members})


async def published(
    workspaces: Workspaces,
    workspace: Workspace,
    config: PushConfig | None,
    verdict: Verdict = COMPLETED,
    pauses_s: Sequence[float] = (),
) -> Outcome:
    changes = await workspaces.collect(workspace)
    return await publish(workspaces, config, workspace, changes, outcome(verdict), pauses_s)


def branches(path: Path) -> list[str]:
    return git(path, "for-each-ref", "--format=%(refname:short)", "refs/heads").splitlines()


async def test_commits_are_pushed_and_nothing_else(workspaces: Workspaces, workspace: Workspace, source: Path) -> None:
    sha = commit(workspace.tree, {"a": "1"}, "work")
    write(workspace.tree, {"b": "not committed"})
    done = await published(workspaces, workspace, anywhere())
    assert done.result["data"] == {"a": 1, "push": {"branch": BRANCH, "sha": sha, "error": None}}
    assert (done.problems, done.verdict, done.result["summary"]) == (("first",), COMPLETED, "done")
    assert git(source, "rev-parse", BRANCH) == sha
    assert branches(source) == [BRANCH, "main"]


async def test_pushing_again_is_no_change_and_more_is_added(
    workspaces: Workspaces, workspace: Workspace, source: Path
) -> None:
    commit(workspace.tree, {"a": "1"}, "work")
    once = await published(workspaces, workspace, anywhere())
    assert await published(workspaces, workspace, anywhere()) == once
    sha = commit(workspace.tree, {"a": "2"}, "more")
    await published(workspaces, workspace, anywhere())
    assert git(source, "rev-parse", BRANCH) == sha


async def test_a_remote_of_its_own(workspaces: Workspaces, workspace: Workspace, source: Path, tmp_path: Path) -> None:
    other = make_repository(tmp_path / "other")
    sha = commit(workspace.tree, {"a": "1"}, "work")
    await published(workspaces, workspace, anywhere(remote=f"file://{other}", branch="from/{agentId}"))
    assert git(other, "rev-parse", f"from/{AGENT}") == sha
    assert branches(source) == ["main"]


@pytest.mark.parametrize("verdict", [COMPLETED, Verdict("failed", "exit_nonzero"), Verdict("killed", "killed_by_peer")])
async def test_without_good_work_nothing_is_pushed(
    workspaces: Workspaces, workspace: Workspace, source: Path, verdict: Verdict
) -> None:
    if verdict is COMPLETED:
        write(workspace.tree, {"b": "not committed"})
    else:
        commit(workspace.tree, {"a": "1"}, "work")
    assert await published(workspaces, workspace, anywhere(), verdict) == outcome(verdict)
    assert branches(source) == ["main"]


async def test_without_a_push_nothing_is_pushed(workspaces: Workspaces, workspace: Workspace, source: Path) -> None:
    commit(workspace.tree, {"a": "1"}, "work")
    assert await published(workspaces, workspace, None) == outcome()
    assert await publish(workspaces, anywhere(), None, None, outcome()) == outcome()
    assert branches(source) == ["main"]


@pytest.mark.attack(39)
async def test_a_repository_without_a_pattern_gets_nothing(
    workspaces: Workspaces, workspace: Workspace, source: Path
) -> None:
    sha = commit(workspace.tree, {"a": "1"}, "work")
    done = await published(workspaces, workspace, PushConfig(repositories=["https://git.example.org/**"]))
    assert done.result["data"]["push"] == {"branch": BRANCH, "sha": sha, "error": "not_allowed"}
    assert done.problems == ("first", "push.repositories has no pattern for this repository")
    assert branches(source) == ["main"]


async def test_what_somebody_else_pushed_is_not_pushed_over(
    workspaces: Workspaces, workspace: Workspace, source: Path
) -> None:
    git(source, "checkout", "-q", "-b", BRANCH)
    theirs = commit(source, {"theirs": "1"}, "theirs")
    git(source, "checkout", "-q", "main")
    sha = commit(workspace.tree, {"a": "1"}, "work")
    done = await published(workspaces, workspace, anywhere())
    assert done.result["data"]["push"] == {"branch": BRANCH, "sha": sha, "error": "push_failed"}
    assert done.problems[1].startswith("cannot push the branch: ")
    assert git(source, "rev-parse", BRANCH) == theirs
    assert git(workspace.objects.parent, "rev-parse", f"refs/hubspoke/agents/{AGENT}") == sha


class Failing(Workspaces):
    """Workspaces whose first pushes do not get through."""

    failures = 0
    is_passing = True

    async def push(self, workspace: Workspace, sha: str, target: PushTarget) -> None:
        if self.failures:
            self.failures -= 1
            raise WorkspaceFailed("cannot push the branch: timed out", retryable=self.is_passing)
        await super().push(workspace, sha, target)


@pytest.mark.parametrize(
    ("failures", "is_passing", "error"),
    [(2, True, None), (3, True, "push_failed"), (1, False, "push_failed")],
    ids=["two that pass", "three", "one that does not pass"],
)
async def test_what_may_pass_is_tried_again(
    tmp_path: Path, source: Path, failures: int, is_passing: bool, error: str | None
) -> None:
    failing = Failing(tmp_path / "spoke", git=Git(os.environ), timeout_s=20)
    failing.failures, failing.is_passing = failures, is_passing
    workspace = await failing.prepare("hub-eu", AGENT, repository_at(source), "main")
    commit(workspace.tree, {"a": "1"}, "work")
    done = await published(failing, workspace, anywhere(), pauses_s=(0, 0))
    assert done.result["data"]["push"]["error"] == error
    assert branches(source) == ([BRANCH, "main"] if error is None else ["main"])


class Guard(ThreadingHTTPServer):
    """A server that nobody gets into; `seen` are the Authorization headers it was sent."""

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__(("127.0.0.1", 0), Refusal)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.seen: list[str | None] = []


class Refusal(BaseHTTPRequestHandler):
    """Asks for credentials, and does not like them."""

    server: Guard

    def do_GET(self) -> None:
        self.server.seen.append(self.headers.get("Authorization"))
        self.send_response(403 if "Authorization" in self.headers else 401)
        self.send_header("WWW-Authenticate", 'Basic realm="git"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def guard(tmp_path: Path, authority: Authority) -> Iterator[Guard]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue(tmp_path))
    with Guard(context) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.attack(63)
async def test_credentials_come_from_the_helper_and_are_nowhere_else(
    tmp_path: Path, source: Path, guard: Guard, authority: Authority
) -> None:
    url = f"https://127.0.0.1:{guard.server_port}/team/app.git"
    helper = tmp_path / "helper"
    helper.write_text(
        f'#!/bin/sh\n[ "$1" = get ] && cat > {tmp_path}/asked\necho username=me\necho password={SECRET}\n'
    )
    helper.chmod(0o755)
    environment = {
        **os.environ,
        "GIT_SSL_CAINFO": str(authority.write(tmp_path / "authority.crt")),
        "no_proxy": "127.0.0.1",
    }
    own = Workspaces(tmp_path / "spoke", git=Git(environment), timeout_s=20)
    workspace = await own.prepare("hub-eu", AGENT, repository_at(source), "main")
    commit(workspace.tree, {"a": "1"}, "work")
    done = await published(own, workspace, anywhere(remote=url, credential_helper=str(helper)))
    assert done.result["data"]["push"]["error"] == "push_failed"
    assert [header is None for header in guard.seen][:2] == [True, False]
    assert "path=team/app.git" in (tmp_path / "asked").read_text()
    assert SECRET not in repr(done)
    assert not any(SECRET in path.read_text("latin-1") for path in (tmp_path / "spoke").rglob("*") if path.is_file())


async def test_the_branch_of_a_real_agent_is_pushed(
    tmp_path: Path, new_hub: Callable[[SpokeNode], HubPeer], source: Path
) -> None:
    push = {"repositories": [f"file://{tmp_path}/**"]}
    toml = tables(**{"agents.worker": {"profile": "fake"}, "agents.worker.push": push})
    async with SpokeNode(tmp_path, toml=toml) as node:
        hub = new_hub(node)
        await hub.ask(node, spawn := hub.spawn(source, "commit a.txt", "say done"))
        agent = await node.until_ended(spawn["id"])
        assert agent["status"] == "completed"
        sha = agent["result"]["commits"][0]["sha"]
        assert agent["result"]["data"]["push"] == {"branch": f"agents/{spawn['id']}", "sha": sha, "error": None}
        assert git(source, "rev-parse", f"agents/{spawn['id']}") == sha
