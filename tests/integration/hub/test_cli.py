"""Every command of `hub`, as a user runs it."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from common.invites import parse_invite
from hub.cli import COMMANDS
from tests.envelopes import key_of
from tests.integration.hub.hub_node import HUB, Done, HubNode, run_hub, run_process, run_program
from tests.integration.hub.standin_spoke import StandinSpoke, error, new_id
from tests.spoke_node import SPOKE, eventually

REPO = ("--repo", "https://git.example.org/team/app.git", "--item", "fix the login redirect")


def run(*arguments: str, **environment: str) -> Done:
    """Run `hub`, in a process of its own when it serves or needs an environment of its own."""
    return run_process(*arguments, **environment) if environment or "serve" in arguments else run_hub(*arguments)


def complaint(done: Done) -> str:
    """Return the code of the one line on stderr."""
    (line,) = done.stderr.splitlines()
    form = re.fullmatch(r"error: ([a-z_]+): .+", line)
    assert form is not None, line
    return form[1]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A hub that was set up and does not run."""
    assert run("--dir", str(tmp_path / "h"), "init", "hub-eu").returncode == 0
    return tmp_path / "h"


# --- setting up


def test_init_writes_what_operation_says(tmp_path: Path) -> None:
    done = run("--dir", str(tmp_path / "h"), "init", "hub-eu", "--listen", "127.0.0.1:9000", "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert re.fullmatch(r"SHA256:[A-Za-z0-9_-]{43}", facts["fingerprint"])
    home = tmp_path / "h"
    assert (home / "keys" / "hub-eu.key").read_text().startswith("-----BEGIN PRIVATE KEY-----")
    for private in ("keys/hub-eu.key", "admin.token"):
        assert (home / private).stat().st_mode & 0o777 == 0o600
    text = (home / "hub.toml").read_text()
    assert 'id = "hub-eu"' in text
    assert 'url = "http://127.0.0.1:9000"' in text


def test_init_twice_changes_nothing(home: Path) -> None:
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    done = run("--dir", str(home), "init", "hub-us")
    assert (done.returncode, complaint(done)) == (1, "config")
    assert {path: path.read_bytes() for path in home.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("Hub EU",), "config"),
        (("../x",), "config"),
        (("hub-eu", "--listen", "8700"), "config"),
        (("hub-eu", "--listen", "0.0.0.0:8700"), "config"),
        (("hub-eu", "--url", "ftp://x"), "url_refused"),
        (("hub-eu", "--url", "http://169.254.169.254"), "url_refused"),
    ],
)
def test_init_refuses_what_would_not_work(tmp_path: Path, arguments: tuple[str, ...], code: str) -> None:
    done = run("--dir", str(tmp_path / "h"), "init", *arguments)
    assert (done.returncode, complaint(done)) == (1, code)
    assert not (tmp_path / "h").exists()


def test_a_set_up_directory_is_for_its_user_only(home: Path) -> None:
    assert all(path.stat().st_mode & 0o077 == 0 for path in (home, *home.rglob("*")))


def test_the_directory_may_be_named_in_any_place(home: Path) -> None:
    for done in (
        run("--dir", str(home), "keys", "show"),
        run("keys", "show", "--dir", str(home)),
        run("keys", "show", HUB_DIR=str(home)),
        run("keys", "show", HUB_DIR="", XDG_STATE_HOME=str(home / "none"), HOME=str(home)),
    ):
        assert (done.returncode == 0) == ("fingerprint" in done.stdout)
    assert complaint(done) == "config"


SETTINGS: dict[str, tuple[str, dict[str, str]]] = {
    "no file": ("", {}),
    "unknown table": ('[node]\nid = "hub-eu"\n[color]\nred = 1\n', {}),
    "unknown member": ('[node]\nid = "hub-eu"\ncolor = 1\n', {}),
    "no listen": ('[node]\nid = "hub-eu"\n', {}),
    "no TOML": ("[node", {}),
    "unknown variable": ('[node]\nid = "hub-eu"\nlisten = "127.0.0.1:0"\n', {"HUB_COLOR": "red"}),
    "unknown variable of a table": (
        '[node]\nid = "hub-eu"\nlisten = "127.0.0.1:0"\n',
        {"HUB_OUTBOX__COLOR": "red"},
    ),
    "wrong value": ('[node]\nid = "hub-eu"\nlisten = "127.0.0.1:0"\n', {"HUB_OUTBOX__LIMIT": "many"}),
}


@pytest.mark.parametrize(("text", "environment"), SETTINGS.values(), ids=SETTINGS.keys())
def test_a_wrong_setting_is_refused_before_anything_starts(home: Path, text: str, environment: dict[str, str]) -> None:
    file = home / "hub.toml"
    file.write_text(text) if text else file.unlink()
    done = run("--dir", str(home), "serve", **environment)
    assert (done.returncode, complaint(done), done.stdout) == (1, "config", "")
    assert not (home / "valkey").exists()


@pytest.mark.attack(62)
def test_an_exposed_key_or_token_is_refused(home: Path) -> None:
    for file in (home / "keys" / "hub-eu.key", home / "admin.token"):
        file.chmod(0o644)
        done = run("--dir", str(home), "serve")
        assert (done.returncode, complaint(done)) == (1, "key_file")
        assert "chmod 600" in done.stderr
        file.chmod(0o600)


@pytest.mark.attack(60)
def test_an_open_valkey_is_refused(home: Path) -> None:
    done = run("--dir", str(home), "serve", HUB_VALKEY__URL="redis://10.0.0.5")
    assert (done.returncode, complaint(done)) == (1, "valkey_open")


# --- usage


@pytest.mark.parametrize(
    "arguments",
    [
        ("no-such-command",),
        ("spawn",),
        ("spawn", "build-1", *REPO, "--type", "manager"),
        ("spawn", "build-1", *REPO, "--priority", "11"),
        ("spawn", "build-1", "--item", "x"),
        ("peer", "no-such-command"),
        ("peer", "approve", "build-1"),
        ("invite", "--ttl", "soon"),
        ("invite", "--label", "=x"),
        ("list", "--limit", "0"),
        ("--color",),
    ],
)
def test_wrong_usage_is_2_and_one_line(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert (done.returncode, complaint(done), done.stdout) == (2, "usage", "")


def test_help_names_every_command_and_imports_none() -> None:
    done = run("--help")
    assert done.returncode == 0
    for name in COMMANDS:
        assert re.search(rf"^  {name}\b", done.stdout, re.MULTILINE), name
        assert run(name, "--help").returncode == 0
    code = "import sys, hub.cli.frame, hub.cli; print([m for m in sys.modules if m.split('.')[0] in "
    code += "{'aiohttp', 'pydantic', 'redis', 'rich', 'cryptography', 'structlog'}])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "arguments",
    [
        ("status", new_id()),
        ("list",),
        ("kill", new_id()),
        ("logs", new_id()),
        ("spawn", "build-1", *REPO),
    ],
)
def test_without_a_node_it_is_3(home: Path, arguments: tuple[str, ...]) -> None:
    (home / "hub.toml").write_text('[node]\nid = "hub-eu"\nlisten = "127.0.0.1:1"\n')
    done = run("--dir", str(home), *arguments)
    assert (done.returncode, complaint(done), done.stdout) == (3, "node_unreachable", "")


# --- keys, peers, invites: also when the node is down


def test_keys_show(home: Path) -> None:
    facts = json.loads(run("--dir", str(home), "keys", "show", "--json").stdout)
    assert facts["fingerprint"] == f"SHA256:{facts['kid']}"
    assert facts["jwk"]["crv"] == "Ed25519"
    assert facts["fingerprint"] in run("--dir", str(home), "keys", "show").stdout


def test_invite_prints_one_string(home: Path) -> None:
    done = run("--dir", str(home), "invite", "--ttl", "90s", "--label", "region=eu")
    (line,) = done.stdout.splitlines()
    invite = parse_invite(line)
    assert (invite.hub, invite.url) == ("hub-eu", "http://127.0.0.1:8700")
    as_json = json.loads(run("--dir", str(home), "invite", "--json").stdout)
    assert parse_invite(as_json["invite"]).invite == as_json["id"]


def test_invite_needs_a_url(home: Path) -> None:
    (home / "hub.toml").write_text('[node]\nid = "hub-eu"\nlisten = "127.0.0.1:0"\n')
    done = run("--dir", str(home), "invite")
    assert (done.returncode, complaint(done)) == (1, "config")


def test_a_peer_by_hand_through_all_its_states(home: Path, tmp_path: Path) -> None:
    def peer(*arguments: str) -> Any:
        done = run("--dir", str(home), "peer", *arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    key = Ed25519PrivateKey.generate().public_key()
    file = tmp_path / "key.pem"
    file.write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    added = peer("add", "build-1", "--key", str(file), "--url", "http://127.0.0.1:8701")
    assert (added["state"], added["kind"], added["url"]) == ("active", "spoke", "http://127.0.0.1:8701")
    assert [view["id"] for view in peer("list")] == ["build-1"]
    assert peer("show", "build-1")["fingerprint"] == added["fingerprint"]
    for command, state in (("suspend", "suspended"), ("resume", "active"), ("revoke", "revoked")):
        assert peer(command, "build-1")["state"] == state
    table = run("--dir", str(home), "peer", "list").stdout
    assert "build-1" in table
    assert added["fingerprint"] in table
    assert "revoked" in run("--dir", str(home), "peer", "show", "build-1").stdout
    for command in ("resume", "suspend"):
        done = run("--dir", str(home), "peer", command, "build-1")
        assert (done.returncode, complaint(done)) == (1, "peer_refused")


@pytest.mark.attack(16)
def test_a_key_that_must_not_be_registered(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "key.jwk"
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": "A" * 43}
    private = {**key_of(5).public.to_jwk(), "d": "A" * 43}
    for content, code in ((json.dumps(jwk), "key_refused"), (json.dumps(private), "key_refused"), ("", "key_refused")):
        file.write_text(content)
        done = run("--dir", str(home), "peer", "add", "build-1", "--key", str(file))
        assert (done.returncode, complaint(done)) == (1, code)
    done = run("--dir", str(home), "peer", "add", "build-1", "--key", str(tmp_path / "none"))
    assert (done.returncode, complaint(done)) == (1, "key_file")
    file.write_text(json.dumps(key_of(5).public.to_jwk()))
    done = run("--dir", str(home), "peer", "add", "Build 1", "--key", str(file))
    assert (done.returncode, complaint(done)) == (1, "config")
    assert json.loads(run("--dir", str(home), "peer", "list", "--json").stdout) == []
    for url in ("https://one.example.org", "https://two.example.org"):  # again, with another URL, it has moved
        done = run("--dir", str(home), "peer", "add", "build-1", "--key", str(file), "--url", url)
        assert done.returncode == 0, done.stderr
        assert [peer["url"] for peer in json.loads(run("--dir", str(home), "peer", "list", "--json").stdout)] == [url]


async def test_approving_needs_the_fingerprint(node: HubNode) -> None:
    async with StandinSpoke(node, registered=False) as spoke:
        node.add_peer(spoke.id, spoke.key.public, spoke.url, "pending")
        done = await node.hub("peer", "approve", spoke.id, key_of(9).public.fingerprint)
        assert (done.returncode, complaint(done)) == (1, "peer_refused")
        done = await node.hub("peer", "resume", spoke.id)
        assert (done.returncode, complaint(done)) == (1, "peer_refused")
        done = await node.hub("peer", "approve", spoke.id, spoke.key.public.fingerprint, "--json")
        assert json.loads(done.stdout)["state"] == "active"
        await node.until_delivery(await node.spawn(spoke.id), "delivered")


async def test_peer_list_shows_how_delivery_goes_while_the_node_runs(node: HubNode, spoke: StandinSpoke) -> None:
    await node.until_delivery(await node.spawn(spoke.id), "delivered")
    shown = json.loads((await node.hub("peer", "show", spoke.id, "--json")).stdout)
    assert shown["lastContactAt"] is not None
    text = (await node.hub("peer", "show", spoke.id)).stdout
    assert re.search(r"last contact +(now|\d+ s ago) \(2", text)
    done = await node.hub("peer", "show", "nobody")
    assert (done.returncode, complaint(done)) == (1, "not_found")


async def test_the_command_line_ends_a_pause(node: HubNode, spoke: StandinSpoke) -> None:
    spoke.next(*["bad_signature"] * 5)
    agent_id = await node.spawn(spoke.id)

    async def failing() -> bool:
        _, peer = await node.call("GET", f"/api/v1/peers/{spoke.id}")
        return bool(peer["failures"] >= 5)

    await eventually(failing, "five failures")
    assert (await node.hub("peer", "resume", spoke.id)).returncode == 0
    # The next attempt of its own was 4 to 8 s away.
    async with asyncio.timeout(3):
        await node.until_delivery(agent_id, "delivered")


# --- agents


async def test_spawn_prints_the_id_and_nothing_else(node: HubNode, spoke: StandinSpoke) -> None:
    done = await node.hub("spawn", spoke.id, "--type", "reviewer", *REPO, "--branch", "dev", "--task", "T-7",
                          "--skill", "python", "--priority", "2", "--timeout-s", "60",
                          "--max-attempts", "1")  # fmt: skip
    assert done.returncode == 0, done.stderr
    agent = await node.until_delivery(done.stdout.strip(), "delivered")
    (command,) = spoke.commands
    assert {name: command[name] for name in command if name != "context"} == {
        "id": agent["agentId"], "command": "spawn", "taskId": "T-7", "agentType": "reviewer", "priority": 2,
        "timeoutS": 60, "maxAttempts": 1,
    }  # fmt: skip
    assert command["context"]["branch"] == "dev"
    again = await node.hub("spawn", spoke.id, *REPO, "--agent-id", agent["agentId"])
    assert (again.returncode, complaint(again)) == (1, "conflict")


async def until_agent(spoke: StandinSpoke) -> str:
    """Return the one agent of the spoke."""
    await eventually(lambda: spoke.agents, "an agent")
    return next(iter(spoke.agents))


async def test_spawn_wait_exits_by_the_outcome(node: HubNode, spoke: StandinSpoke) -> None:
    for outcome, members, status in (
        (
            "completed",
            {"result": {"summary": "all \x1b[31mgood\nreally", "commits": [{"sha": "abc", "subject": "x"}]}},
            0,
        ),
        ("failed", {"reason": "exit_nonzero", "exitCode": 3}, 1),
    ):
        spoke.agents.clear()
        task = asyncio.create_task(node.hub("spawn", spoke.id, *REPO, "--wait"))
        agent_id = await until_agent(spoke)
        await spoke.report(spoke.advance(agent_id, "running"))
        await spoke.report(spoke.advance(agent_id, outcome, **members))
        done = await task
        assert done.returncode == status
        assert done.stdout.splitlines()[0] == agent_id
        assert f"{agent_id} {outcome}" in done.stderr
        assert "\x1b" not in done.stdout
    assert done.stderr.splitlines()[-1] == f"error: failed: agent {agent_id}: exit_nonzero"


async def test_an_end_that_only_the_spoke_can_explain_says_so(node: HubNode, spoke: StandinSpoke) -> None:
    agent_id = await node.spawn(spoke.id)
    await node.until_delivery(agent_id, "delivered")
    await spoke.report(spoke.advance(agent_id, "failed", reason="workspace_failed"))
    done = await node.hub("wait", agent_id)
    assert done.stderr.splitlines()[-1].endswith(
        f"workspace_failed; its spoke's operator sees why: spoke agent show {agent_id}"
    )


async def test_the_receipt_of_a_kill_is_shown(node: HubNode, spoke: StandinSpoke) -> None:
    agent_id = await node.spawn(spoke.id)
    await node.until_delivery(agent_id, "delivered")
    at = "2026-11-22T08:00:00.000Z"
    receipt = {"signals": [{"signal": "SIGTERM", "at": at}, {"signal": "SIGKILL", "at": at}], "survivors": 0}
    await spoke.report(spoke.advance(agent_id, "killed", reason="killed_by_peer", receipt=receipt))
    text = (await node.hub("status", agent_id)).stdout
    assert f"SIGTERM at {at}, SIGKILL at {at}; 0 survivors" in text


async def test_what_came_of_it_is_shown(node: HubNode, spoke: StandinSpoke) -> None:
    agent_id = await node.spawn(spoke.id)
    await node.until_delivery(agent_id, "delivered")
    result = {
        "summary": "done\n\x1b[31mred",
        "data": {"push": {"branch": "agents/a", "sha": "1" * 40, "error": None}},
        "commits": [{"sha": "1" * 40, "subject": "Add a.txt"}],
        "diffStat": {"files": 2, "insertions": 3, "deletions": 1},
        "usage": {"inputTokens": 10, "outputTokens": 2, "costUsd": 0.5, "turns": 3},
        "preservedRef": "refs/hubspoke/preserved/a",
    }
    await spoke.report(spoke.advance(agent_id, "completed", result=result))
    shown = (await node.hub("status", agent_id)).stdout
    assert f"commit      {'1' * 40}  Add a.txt\n" in shown
    assert "changed     files 2, +3 -1, not all of it committed\n" in shown
    assert "used        tokens 10 in, 2 out, turns 3, $0.5000\n" in shown
    assert "pushed      to agents/a\n" in shown
    assert shown.endswith("\n\ndone\n\\x1b[31mred\n")


@pytest.mark.attack(56)
async def test_a_result_of_any_form_is_shown(node: HubNode, spoke: StandinSpoke) -> None:
    for data, usage in (({"push": {"error": "push_failed"}}, {"costUsd": "x\x1b"}), ([1], [2]), ({"push": 1}, None)):
        agent_id = await node.spawn(spoke.id)
        await node.until_delivery(agent_id, "delivered")
        result = {"summary": 5, "data": data, "commits": ["a", {}], "diffStat": "no", "usage": usage}
        await spoke.report(spoke.advance(agent_id, "completed", result=result))
        done = await node.hub("status", agent_id)
        assert (done.returncode, done.stderr, "\x1b" in done.stdout) == (0, "", False)
        assert ("pushed      no: push_failed" in done.stdout) is (usage == {"costUsd": "x\x1b"})


@pytest.mark.parametrize("command", ["status", "kill", "logs", "wait", "diff"])
def test_what_is_no_id_never_becomes_a_path(home: Path, command: str) -> None:
    for text in ("bogus", "", "../peers", "../agents?limit=1", "0199FFFF-0000-7000-8000-000000000000"):
        done = run("--dir", str(home), command, text)
        assert (done.returncode, complaint(done)) == (2, "usage")


async def test_spawn_wait_of_a_refused_agent(node: HubNode, spoke: StandinSpoke) -> None:
    spoke.answers["spawn"] = error("not_allowed", detail="repositories")
    done = await node.hub("spawn", spoke.id, *REPO, "--wait", "--json")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: refused: agent ")
    spawned, ended = map(json.loads, done.stdout.splitlines())
    assert spawned["agentId"] == ended["agentId"]
    assert ended["delivery"]["state"] == "refused"


async def test_spawn_follow_prints_the_log_until_the_end(node: HubNode, spoke: StandinSpoke) -> None:
    spoke.log = b"first line\n\x1b[2Jsecond\tline\n"
    task = asyncio.create_task(node.hub("spawn", spoke.id, *REPO, "--follow"))
    agent_id = await until_agent(spoke)
    await spoke.report(spoke.advance(agent_id, "running"))
    await eventually(lambda: spoke.sent(agent_id, "logs") >= 2, "the log is followed")
    spoke.log += b"last line\n"
    await spoke.report(spoke.advance(agent_id, "completed"))
    done = await task
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{agent_id}\nfirst line\n\\x1b[2Jsecond\tline\nlast line\n")


async def test_diff_and_send(node: HubNode, spoke: StandinSpoke) -> None:
    spoke.log = b"diff --git a/x b/x\n+\x1b[31mred\n"
    agent_id = await node.spawn(spoke.id)
    await node.until_delivery(agent_id, "delivered")
    assert (await node.hub("diff", agent_id)).stdout == "diff --git a/x b/x\n+\x1b[31mred\n"  # a pipe: for git apply
    sent = json.loads((await node.hub("send", agent_id, "look at the logs first", "--json")).stdout)
    assert spoke.told == {sent["commandId"]: "look at the logs first"}
    told = await node.hub("send", agent_id, "again", "--id", sent["commandId"])
    assert sent["commandId"] in told.stdout
    spoke.answers["send"] = error("not_allowed", detail="it has ended")
    refused = await node.hub("send", agent_id, "too late")
    assert (refused.returncode, refused.stderr) == (1, "error: not_allowed: the spoke refused: it has ended\n")


async def test_resume(node: HubNode, spoke: StandinSpoke) -> None:
    agent_id = await node.spawn(spoke.id)
    await node.until_delivery(agent_id, "delivered")
    await spoke.report(spoke.advance(agent_id, "completed"))
    resumed = json.loads((await node.hub("resume", agent_id, "mind the tests", "--json")).stdout)
    assert spoke.told == {resumed["commandId"]: "mind the tests"}
    again = await node.hub("resume", agent_id, "mind the tests", "--id", resumed["commandId"])
    assert re.search(rf"^resume +{resumed['commandId']}$", again.stdout, re.MULTILINE)
    spoke.answers["resume"] = error("not_allowed", detail="it has not ended")
    refused = await node.hub("resume", agent_id)
    assert (refused.returncode, refused.stderr) == (1, "error: not_allowed: the spoke refused: it has not ended\n")


async def test_status_list_logs_kill_wait(node: HubNode, spoke: StandinSpoke) -> None:
    spoke.log = b"hello\n"
    agent_id = await node.spawn(spoke.id, taskId="T-cli")
    await node.until_delivery(agent_id, "delivered")
    text = (await node.hub("status", agent_id)).stdout
    assert re.search(r"^status +queued$", text, re.MULTILINE)
    assert re.search(r"^created +(now|\d+ s ago) \(2", text, re.MULTILINE)
    assert json.loads((await node.hub("status", agent_id, "--live", "--json")).stdout)["agentId"] == agent_id
    listed = (await node.hub("list", "--spoke", spoke.id, "--task", "T-cli", "--status", "queued")).stdout
    assert agent_id in listed
    page = json.loads((await node.hub("list", "--spoke", spoke.id, "--json")).stdout)
    assert [agent["agentId"] for agent in page["agents"]] == [agent_id]
    assert (await node.hub("logs", agent_id)).stdout == "hello\n"
    killed = json.loads((await node.hub("kill", agent_id, "--grace", "1", "--reason", "test", "--json")).stdout)
    assert killed["commandId"]
    waited = await node.hub("wait", agent_id)
    assert waited.returncode == 1
    assert waited.stderr.splitlines()[-1] == f"error: killed: agent {agent_id}: killed_by_peer"
    followed = await node.hub("logs", "-f", agent_id)
    assert (followed.returncode, followed.stdout) == (0, "hello\n")
    again = await node.hub("kill", agent_id)
    assert (again.returncode, "ended before: killed" in again.stdout) == (0, True)


async def test_a_log_is_for_people_unless_raw(node: HubNode, spoke: StandinSpoke) -> None:
    spoke.log = b"""{"type":"system","subtype":"init","session_id":"s1"}
{"type":"assistant","message":{"content":[{"type":"text","text":"a\\u001b[2Jb"}]}}
no end"""
    agent_id = await node.spawn(spoke.id)
    await node.until_delivery(agent_id, "delivered")
    assert (await node.hub("logs", agent_id)).stdout == "[session s1]\na\\x1b[2Jb\nno end"
    assert (await node.hub("logs", "--raw", agent_id)).stdout == spoke.log.decode()


async def test_listing_goes_on_at_the_cursor(node: HubNode, spoke: StandinSpoke) -> None:
    agents = [await node.spawn(spoke.id) for _ in range(3)]
    first = await node.hub("list", "--spoke", spoke.id, "--limit", "2")
    cursor = first.stderr.split("--cursor ")[1].strip()
    rest = json.loads((await node.hub("list", "--spoke", spoke.id, "--cursor", cursor, "--json")).stdout)
    assert [agent["agentId"] for agent in rest["agents"]] == agents[:1]


@pytest.mark.attack(56)
async def test_nothing_of_a_peer_steers_the_terminal(node: HubNode, spoke: StandinSpoke) -> None:
    evil = "a\x1b]0;owned\x07\nb\u202ec"
    agent_id = await node.spawn(spoke.id)
    await node.until_delivery(agent_id, "delivered")
    spoke.log = evil.encode()
    result = {"summary": evil, "commits": [{"sha": evil, "subject": evil}]}
    await spoke.report(spoke.advance(agent_id, "failed", reason=evil, signal=evil, result=result))
    for arguments in (("status", agent_id), ("list", "--spoke", spoke.id), ("logs", agent_id), ("wait", agent_id),
                      ("status", agent_id, "--json")):  # fmt: skip
        done = await node.hub(*arguments)
        for stream in (done.stdout, done.stderr):
            assert not set(stream) & set("\x1b\x07\u202e"), arguments
    assert (await node.hub("logs", "--raw", agent_id)).stdout == evil


async def test_wait_survives_a_restart_of_the_hub(tmp_path: Path) -> None:
    with HubNode(tmp_path) as own:
        port = int(own.url.rpartition(":")[2])
        own.place.settings_file.write_text(f'[node]\nid = "{own.id}"\nlisten = "127.0.0.1:{port}"\n')
        async with StandinSpoke(own) as spoke:
            agent_id = await own.spawn(spoke.id)
            await own.until_delivery(agent_id, "delivered")

            def looks() -> int:
                return len(own.log_lines("request.answered", route="GET /api/v1/agents/{id}", id=agent_id))

            before = looks()
            task = asyncio.create_task(own.hub("wait", agent_id))
            await eventually(lambda: looks() > before, "it waits")
            await own.kill9()
            await own.restart()
            await spoke.report(spoke.advance(agent_id, "completed"))
            done = await task
            assert done.returncode == 0, done.stderr


async def test_ctrl_c_is_130_without_a_traceback(node: HubNode, spoke: StandinSpoke) -> None:
    agent_id = await node.spawn(spoke.id)
    await node.until_delivery(agent_id, "delivered")
    process = await asyncio.create_subprocess_exec(
        str(HUB), "--dir", str(node.directory), "wait", agent_id, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    first = await process.stderr.readline()
    assert first.decode().split() == [agent_id, "queued"]
    process.send_signal(signal.SIGINT)
    _, rest = await process.communicate()
    assert process.returncode == 130
    assert b"Traceback" not in rest


async def test_serve_says_ready_once_and_ends_by_sigint(tmp_path: Path) -> None:
    home = tmp_path / "h"
    run("--dir", str(home), "init", "hub-eu", "--listen", "127.0.0.1:0")
    process = await asyncio.create_subprocess_exec(
        str(HUB), "--dir", str(home), "serve", "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    ready = json.loads(await process.stdout.readline())
    assert (ready["event"], ready["url"]) == ("ready", (home / "node.url").read_text().strip())
    process.send_signal(signal.SIGINT)
    rest, errors = await process.communicate()
    assert (process.returncode, rest) == (0, b"")
    assert b"Traceback" not in errors
    assert not (home / "node.url").exists()


# --- doctor


async def test_a_running_hub_says_that_it_is_ready(node: HubNode, home: Path) -> None:
    assert (await node.hub("ready")).stdout == "ready\n"
    assert json.loads((await node.hub("ready", "--json")).stdout)["status"] == "ready"
    done = await asyncio.to_thread(run, "--dir", str(home), "ready")  # it has an event loop of its own
    assert (done.returncode, complaint(done)) == (3, "node_unreachable")


async def test_doctor_finds_a_good_hub_good(node: HubNode) -> None:
    async with StandinSpoke(node) as spoke:
        findings = json.loads((await node.hub("doctor", "--json")).stdout)
        by_check = {finding["check"]: finding for finding in findings}
        for check in ("files", "valkey", "url", f"spoke {spoke.id}"):
            assert by_check[check]["ok"], by_check[check]


async def test_doctor_says_what_is_wrong_with_a_spoke(node: HubNode, spoke: StandinSpoke) -> None:
    registered, spoke.key = spoke.key, key_of(66)
    done = await node.hub("doctor")
    assert done.returncode == 1
    assert re.search(rf"^WRONG  spoke {spoke.id} .*join it again", done.stdout, re.MULTILINE)
    spoke.key = registered
    await spoke.down()
    done = await node.hub("doctor")
    assert re.search(rf"^WRONG  spoke {spoke.id} .*cannot reach", done.stdout, re.MULTILINE)


def test_doctor_says_how_to_mend_a_file(home: Path) -> None:
    (home / "admin.token").chmod(0o644)
    done = run("--dir", str(home), "doctor")
    assert done.returncode == 1
    assert re.search(r"^WRONG  files .*chmod 600", done.stdout)


def test_a_key_is_exported_on_one_side_and_registered_from_stdin_on_the_other(home: Path, tmp_path: Path) -> None:
    """Both ways, as docs/operations.md has it by hand."""
    spoke = tmp_path / "s"
    assert run_program(SPOKE, "--dir", str(spoke), "init", "build-1", "--listen", "127.0.0.1:0").returncode == 0
    sides = [(HUB, home, "hub-eu"), (SPOKE, spoke, "build-1")]
    for (program, place, name), (other, elsewhere, _) in (sides, sides[::-1]):
        exported = run_program(program, "--dir", str(place), "keys", "export")
        shown = json.loads(run_program(program, "--dir", str(place), "keys", "show", "--json").stdout)
        assert json.loads(exported.stdout) == shown["jwk"]
        added = subprocess.run(
            [str(other), "--dir", str(elsewhere), "peer", "add", name, "--key", "-"],
            input=exported.stdout, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert added.returncode == 0, added.stderr
        assert shown["fingerprint"] in added.stdout


def test_both_say_of_which_version_they_are() -> None:
    versions = [run_program(program, "--version").stdout.split() for program in (HUB, SPOKE)]
    assert [words[0] for words in versions] == ["hub,", "spoke,"]
    assert versions[0][1:] == versions[1][1:]


def test_all_suspended_spokes_are_resumed_at_once(home: Path, tmp_path: Path) -> None:
    names = ["build-1", "build-2", "build-3", "build-4"]
    for seed, name in enumerate(names, 20):
        (tmp_path / "jwk").write_text(json.dumps(key_of(seed).public.to_jwk()))
        assert run("--dir", str(home), "peer", "add", name, "--key", str(tmp_path / "jwk")).returncode == 0
    for command, name in (("suspend", "build-1"), ("suspend", "build-3"), ("revoke", "build-4")):
        assert run("--dir", str(home), "peer", command, name).returncode == 0
    resumed = run("--dir", str(home), "peer", "resume", "--all")
    assert resumed.returncode == 0, resumed.stderr
    assert [line.split() for line in resumed.stdout.splitlines()[1:]] == [["build-1", "active"], ["build-3", "active"]]
    states = {
        view["id"]: view["state"] for view in json.loads(run("--dir", str(home), "peer", "list", "--json").stdout)
    }
    assert states == dict(zip(names, ["active", "active", "active", "revoked"], strict=True))
    assert json.loads(run("--dir", str(home), "peer", "resume", "--all", "--json").stdout) == []
    for arguments in ((), ("build-1", "--all")):
        assert run("--dir", str(home), "peer", "resume", *arguments).returncode == 2
