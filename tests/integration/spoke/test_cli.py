"""`spoke` as people and scripts use it: exit codes, JSON, one-line errors, and no traceback ever.

Each kind of command runs as a process of its own somewhere below; the tables run it in this one, for time's sake.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import re
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from common.command_line import run
from spoke.cli.root import spoke as command_line
from spoke.machines.registry import write_key
from tests.envelopes import key_of
from tests.peer import HubPeer, new_id
from tests.spoke_node import SPOKE, Go, SpokeNode, eventually, is_alive, run_in_process, tables

Done = subprocess.CompletedProcess[str]
AN_ID = "01a2039d-bb00-7000-8000-000000000001"  # of no agent; a fixed one, as the names of cases must not change
ERROR = re.compile(r"error: [a-z_]+: \S.*\n\Z")


_ONE_AT_A_TIME = threading.Lock()
_OF_ITS_OWN = {"serve", "doctor", "test"}
"""Commands that start processes or read the environment."""


async def spoke(*arguments: str | Path, **environment: str) -> Done:
    """Run the command line with these arguments: in this process, where that is the same but for the interpreter."""
    texts = [*map(str, arguments)]
    if environment or _OF_ITS_OWN & set(texts):
        return await of_its_own(*texts, **environment)
    return await asyncio.to_thread(in_process, texts)


async def of_its_own(*arguments: str, **environment: str) -> Done:
    """Run it as a process."""
    command, env = [str(SPOKE), *arguments], {**os.environ, **environment}
    return await asyncio.to_thread(
        subprocess.run, command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
    )


def in_process(arguments: list[str]) -> Done:
    stdout, stderr = io.StringIO(), io.StringIO()
    with _ONE_AT_A_TIME, contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        code = run(command_line, "spoke", arguments)
    return Done(arguments, code, stdout.getvalue(), stderr.getvalue())


def refused(done: Done, code: str, exit_code: int = 1) -> None:
    assert done.returncode == exit_code, done
    assert done.stdout == ""
    assert ERROR.match(done.stderr), done.stderr
    assert done.stderr.startswith(f"error: {code}: ")


def document(done: Done) -> Any:
    assert (done.returncode, done.stderr) == (0, ""), done
    return json.loads(done.stdout)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A spoke that was set up and does not run."""
    run_in_process(tmp_path / "spoke", "init", "build-1", "--listen", "127.0.0.1:0")
    return tmp_path / "spoke"


# --- setting up


async def test_init_makes_a_directory_that_only_we_can_read(tmp_path: Path) -> None:
    directory = tmp_path / "new" / "spoke"
    done = await spoke("--dir", directory, "--json", "init", "build-1", "--url", "https://build-1.example.org/")
    facts = document(done)
    assert facts["id"] == "build-1"
    assert facts["fingerprint"].startswith("SHA256:")
    modes = {path.relative_to(directory).as_posix(): path.stat().st_mode & 0o777 for path in directory.rglob("*.*")}
    assert modes["keys/build-1.key"] == modes["local.token"] == modes["spoke.toml"] == 0o600
    assert directory.stat().st_mode & 0o077 == 0
    assert 'url = "https://build-1.example.org"' in (directory / "spoke.toml").read_text()
    refused(await spoke("--dir", directory, "init", "build-1"), "config")
    shown = document(await spoke("--dir", directory, "keys", "show", "--json"))
    assert shown["fingerprint"] == facts["fingerprint"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["Build-1"], "id"),
        (["-build"], "usage"),
        ([""], "id"),
        (["a" * 64], "id"),
        (["a/b"], "id"),
        (["build-1", "--listen", "nowhere"], "config"),
        (["build-1", "--listen", "127.0.0.1:99999"], "config"),
        (["build-1", "--url", "ftp://x"], "url_refused"),
        (["build-1", "--url", "http://169.254.169.254/"], "url_refused"),
        ([], "usage"),
        (["build-1", "more"], "usage"),
    ],
    ids=str,
)
async def test_init_refuses_what_cannot_be(tmp_path: Path, arguments: list[str], code: str) -> None:
    refused(await spoke("--dir", tmp_path / "new", "init", *arguments), code, 2 if code == "usage" else 1)
    assert not (tmp_path / "new").exists()


async def test_init_can_be_repeated_after_it_failed(tmp_path: Path) -> None:
    obstacle = tmp_path / "keys"
    obstacle.write_text("")
    refused(await spoke("--dir", tmp_path, "init", "build-1"), "key_file")
    obstacle.unlink()
    document(await spoke("--dir", tmp_path, "--json", "init", "build-1"))
    document(await spoke("--dir", tmp_path, "keys", "show", "--json"))


# --- bad input everywhere

NEEDS_NODE: list[list[str]] = [
    ["agent", "list"],
    ["agent", "show", AN_ID],
    ["agent", "kill", AN_ID],
    ["agent", "logs", AN_ID],
    ["queue"],
    ["ready"],
    ["drain"],
]
NEEDS_DIRECTORY = [
    *NEEDS_NODE,
    ["serve"],
    ["keys", "show"],
    ["peer", "list"],
    ["peer", "show", "hub-eu"],
    ["peer", "policy", "hub-eu"],
    ["peer", "suspend", "hub-eu"],
    ["profile", "list"],
    ["profile", "test", "report"],
    ["profile", "show", "report"],
]


async def test_without_a_node_every_command_that_needs_one_says_so(directory: Path) -> None:
    for done in await asyncio.gather(*(spoke("--dir", directory, *command) for command in NEEDS_NODE)):
        refused(done, "unreachable", 3)
        assert "spoke serve" in done.stderr


@pytest.mark.parametrize("state", ["nothing", "file", "empty", "broken toml", "unknown setting", "no key", "open key"])
async def test_a_directory_that_is_none(directory: Path, tmp_path: Path, state: str) -> None:
    match state:
        case "nothing":
            directory = tmp_path / "nothing"
        case "file":
            (directory := tmp_path / "file").write_text("")
        case "empty":
            (directory := tmp_path / "empty").mkdir()
        case "broken toml":
            (directory / "spoke.toml").write_text("[node\n")
        case "unknown setting":
            (directory / "spoke.toml").write_text('[node]\nid = "build-1"\nlisten = "127.0.0.1:0"\n[polciy]\n')
        case "no key":
            (directory / "keys" / "build-1.key").unlink()
        case _:
            (directory / "keys" / "build-1.key").chmod(0o644)
    commands = [["serve"], ["keys", "show"], ["peer", "list"], ["profile", "list"], ["queue"]]
    for command, done in zip(
        commands, await asyncio.gather(*(spoke("--dir", directory, *command) for command in commands)), strict=True
    ):
        if done.returncode == 0 or "unreachable" in done.stderr:
            assert "key" in state, "only a command that needs no key may go on"
            assert command in (["profile", "list"], ["queue"])
        else:
            refused(done, "key_file" if "key" in state else "config")
    findings = json.loads((await spoke("--dir", directory, "--json", "doctor")).stdout)
    assert [(finding["check"], finding["state"]) for finding in findings] == [("files", "bad")]


@pytest.mark.parametrize(
    "arguments",
    [
        ["nothing"],
        ["--nothing"],
        ["agent"],
        ["agent", "nothing"],
        ["agent", "show"],
        ["agent", "list", "--limit", "x"],
        ["agent", "kill", AN_ID, "--grace", "x"],
        ["peer", "add", "hub-eu"],
        ["profile", "test"],
        ["profile", "test", "report", "--timeout", "0"],
        ["profile", "test", "report", "--type", "boss"],
    ],
    ids=" ".join,
)
async def test_usage(directory: Path, arguments: list[str]) -> None:
    done = await spoke("--dir", directory, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    assert "Usage:" in done.stderr or ERROR.match(done.stderr)


@pytest.mark.parametrize("agent_id", ["x", "..", "../../etc/passwd", AN_ID.upper(), "\x1b[31m", "*"])
async def test_what_is_no_agent(directory: Path, agent_id: str) -> None:
    for command in ("show", "kill", "logs"):
        refused(await spoke("--dir", directory, "agent", command, agent_id), "invalid")


@pytest.mark.parametrize(
    "content",
    [None, "", "{}", '{"kty":"RSA"}', "x" * 99],
    ids=["missing", "empty", "empty JWK", "RSA", "garbage"],
)
async def test_a_public_key_that_is_none(directory: Path, tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "key").write_text(content)
    done = await spoke("--dir", directory, "peer", "add", "hub-eu", "--key", tmp_path / "key")
    assert done.returncode == 1
    assert ERROR.match(done.stderr)
    assert json.loads(run_in_process(directory, "--json", "peer", "list")) == []


@pytest.mark.attack(56)
async def test_errors_are_one_line_that_cannot_drive_a_terminal(directory: Path) -> None:
    for bad in ("a\nb", "\x1b]0;owned\x07", "\u202eevil", "\x9b31m"):
        for arguments in (["peer", "show", bad], ["join", bad], ["agent", "show", bad], [bad], [f"--{bad}"]):
            done = await spoke("--dir", directory, *arguments)
            assert done.returncode in {1, 2}
            assert done.stderr.count("\n") == 1
            assert not set(done.stderr[:-1]) & set("\x1b\x07\x9b\u202e\n")


# --- peers


async def test_the_life_of_a_peer(directory: Path, tmp_path: Path) -> None:
    hub = HubPeer()
    (tmp_path / "hub.jwk").write_text(json.dumps(hub.key.public.to_jwk()))
    at = ("--dir", directory)
    added = document(await spoke(*at, "--json", "peer", "add", hub.id, "--key", tmp_path / "hub.jwk"))
    assert (added["id"], added["state"], added["fingerprint"]) == (hub.id, "active", hub.key.public.fingerprint)
    again = document(await spoke(*at, "--json", "peer", "add", hub.id, "--key", tmp_path / "hub.jwk"))
    assert again == added
    moved: list[str | Path] = [
        *at,
        "--json",
        "peer",
        "add",
        hub.id,
        "--key",
        tmp_path / "hub.jwk",
        "--url",
        "https://hub.example.org",
    ]
    assert document(await spoke(*moved))["url"] == "https://hub.example.org"
    assert [row["id"] for row in document(await spoke(*at, "peer", "list", "--json"))] == [hub.id]
    shown = (await spoke(*at, "peer", "list")).stdout
    assert hub.id in shown
    assert hub.key.public.fingerprint in shown
    for command, state in (("suspend", "suspended"), ("resume", "active"), ("revoke", "revoked")):
        assert document(await spoke(*at, "--json", "peer", command, hub.id))["state"] == state
    refused(await spoke(*at, "peer", "resume", hub.id), "peer_refused")
    refused(await spoke(*at, "peer", "show", "hub-xx"), "not_found")


@pytest.mark.parametrize("invite", ["", "hubspoke1.", "hubspoke1.e30", "x" * 5000, "hubspoke2.abc"])
async def test_invites_that_are_none(directory: Path, invite: str) -> None:
    done = await spoke("--dir", directory, "join", invite)
    assert done.returncode in {1, 2}
    assert ERROR.match(done.stderr)


# --- with a node


async def test_serve_says_when_it_is_ready_and_only_once_for_a_directory(directory: Path) -> None:
    serving = await asyncio.create_subprocess_exec(
        SPOKE, "--dir", directory, "--json", "serve", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert serving.stdout is not None
    try:
        ready = json.loads(await serving.stdout.readline())
        assert ready["event"] == "ready"
        assert ready["url"].startswith("http://127.0.0.1:")
        refused(await spoke("--dir", directory, "serve"), "already_running")
        assert document(await spoke("--dir", directory, "queue", "--json"))["queued"] == 0
    finally:
        serving.send_signal(signal.SIGINT)  # as Ctrl-C does
    assert await serving.wait() == 0
    assert await serving.stdout.read() == b""
    refused(await spoke("--dir", directory, "queue"), "unreachable", 3)


async def test_agents_on_the_command_line(shared: SpokeNode, hub: HubPeer, origin: Path) -> None:
    said = '{"type":"system","subtype":"init","session_id":"s1"}'
    spawn = hub.spawn(
        origin, "print \x1b[31mred\x1b[0m", f"print {said}", "print \u202eevil", 'result {"summary":"a\\u001bb"}'
    )
    await hub.ask(shared, spawn)
    await shared.until_ended(spawn["id"])
    shown = document(await shared.spoke("agent", "show", spawn["id"], "--json"))
    assert (shown["status"], shown["result"]["summary"]) == ("completed", "a\x1bb")
    assert shown == await shared.agent(spawn["id"])
    rows = document(await shared.spoke("--json", "agent", "list"))
    assert spawn["id"] in [row["agentId"] for row in (rows["agents"] if isinstance(rows, dict) else rows)]
    log = await shared.spoke("agent", "logs", spawn["id"])
    assert log.stdout == "\\x1b[31mred\\x1b[0m\n[session s1]\n\\u202eevil\n"
    raw = await shared.spoke("agent", "logs", "--raw", spawn["id"])
    assert raw.stdout == f"\x1b[31mred\x1b[0m\n{said}\n\u202eevil\n"
    for arguments in (["agent", "show", spawn["id"]], ["agent", "list"]):
        done = await shared.spoke(*arguments)
        assert done.returncode == 0
        assert spawn["id"] in done.stdout
        assert not set(done.stdout) & set("\x1b\u202e")
    refused(await shared.spoke("agent", "show", new_id()), "not_found")
    refused(await shared.spoke("agent", "list", "--limit", "-1"), "invalid")


async def test_kill_and_follow(shared: SpokeNode, hub: HubPeer, origin: Path, go: Go) -> None:
    spawn = hub.spawn(origin, "print one", f"wait {go}", "print two", "sleep 60")
    await hub.ask(shared, spawn)
    await shared.started(spawn["id"])
    following = asyncio.create_task(shared.spoke("agent", "logs", "-f", spawn["id"]))
    go.now()
    await eventually(lambda: "two" in _log(shared, spawn["id"]), "the agent goes on")
    refused(await shared.spoke("agent", "kill", spawn["id"], "--grace", "999"), "invalid")
    killed = await shared.spoke("agent", "kill", spawn["id"], "--grace", "0", "--reason", "enough")
    assert killed.returncode == 0
    done = await following
    assert (done.returncode, done.stdout) == (0, "one\ntwo\n")


def _log(node: SpokeNode, agent_id: str) -> str:
    return "".join(path.read_text() for path in node.directory.glob(f"runs/*/{agent_id}/*/log"))


async def test_ctrl_c_ends_a_follower_quietly(shared: SpokeNode, hub: HubPeer, origin: Path) -> None:
    await hub.ask(shared, spawn := hub.spawn(origin, "print one", "sleep 60"))
    await shared.started(spawn["id"])
    following = await asyncio.create_subprocess_exec(
        *(SPOKE, "--dir", shared.directory, "agent", "logs", "-f", spawn["id"]),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert following.stdout is not None
    assert await following.stdout.readline() == b"one\n"
    following.send_signal(signal.SIGINT)
    _, stderr = await following.communicate()
    assert (following.returncode, stderr.strip()) == (130, b"")
    await hub.ask(shared, hub.about("kill", spawn["id"], graceS=0))
    await shared.until_ended(spawn["id"])


async def test_a_reader_that_goes_away_is_no_error(shared: SpokeNode, hub: HubPeer, origin: Path) -> None:
    await hub.ask(shared, spawn := hub.spawn(origin, *["print " + "x" * 5000] * 60))
    await shared.until_ended(spawn["id"])
    command = f"'{SPOKE}' --dir '{shared.directory}' agent logs {spawn['id']} | head -c 10"
    done = await asyncio.to_thread(subprocess.run, ["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("x" * 10, "")


async def test_draining_from_the_command_line(shared: SpokeNode, hub: HubPeer, origin: Path) -> None:
    assert document(await shared.spoke("--json", "drain"))["draining"] is True
    assert (await hub.ask(shared, hub.spawn(origin)))["error"]["code"] == "draining"
    assert document(await shared.spoke("--json", "drain", "--off"))["draining"] is False
    await hub.ask(shared, spawn := hub.spawn(origin))
    assert (await shared.until_ended(spawn["id"]))["status"] == "completed"


# --- doctor and profiles


async def findings(node_or_directory: SpokeNode | Path, **environment: str) -> tuple[int, dict[str, dict[str, Any]]]:
    directory = node_or_directory if isinstance(node_or_directory, Path) else node_or_directory.directory
    done = await spoke("--dir", directory, "doctor", "--json", **environment)
    assert done.stderr == ""
    return done.returncode, {finding["check"]: finding for finding in json.loads(done.stdout)}


async def test_the_doctor_of_a_fresh_spoke(directory: Path) -> None:
    code, found = await findings(directory)
    states = {check: finding["state"] for check, finding in found.items()}
    assert code == 0
    assert {check for check, state in states.items() if state == "bad"} == set()
    assert {states[check] for check in ("files", "valkey", "git", "agents.worker")} == {"ok"}
    assert (states["node"], states["policy"], states["hubs"]) == ("warn", "warn", "warn")
    for agent_type in ("worker", "reviewer", "tester"):
        sandbox = found[f"sandbox.{agent_type}"]
        assert sandbox["state"] == "warn"
        assert "can read and change whatever that user can" in sandbox["detail"]
    assert all(finding["mend"] for finding in found.values() if finding["state"] == "warn")


async def test_the_doctor_cannot_say_of_a_machine_whether_it_has_a_link_while_the_node_is_down(directory: Path) -> None:
    added = await spoke("--dir", directory, "machine", "add", "m1", write_key(key_of(3).public))
    assert added.returncode == 0
    code, found = await findings(directory)
    assert (code, found["machine m1"]["state"]) == (0, "warn")
    assert "cannot be asked" in found["machine m1"]["detail"]


async def test_the_doctor_of_a_running_spoke_with_a_hub(shared: SpokeNode) -> None:
    code, found = await findings(shared)
    assert code == 1, "the tester's program is not there"
    assert found["agents.tester"]["state"] == "bad"
    assert "/nonexistent/agent" in found["agents.tester"]["detail"]
    assert {found[check]["state"] for check in ("files", "node", "valkey", "disk", "git", "policy")} == {"ok"}
    text = (await shared.spoke("doctor")).stdout
    assert len(text.splitlines()) == len(found)
    assert all(line[:4] in {"ok  ", "warn", "bad "} for line in text.splitlines())
    assert shared.token not in text


@pytest.mark.slow
async def test_the_doctor_looks_at_hubs(tmp_path: Path) -> None:
    async with SpokeNode(tmp_path) as other:
        key = json.loads(run_in_process(other.directory, "--json", "keys", "show"))["jwk"]
        (tmp_path / "other.jwk").write_text(key if isinstance(key, str) else json.dumps(key))
        run_in_process(tmp_path / "spoke", "init", "build-2", "--listen", "127.0.0.1:0")
        add = ("--key", str(tmp_path / "other.jwk"), "--url", other.url)
        run_in_process(tmp_path / "spoke", "peer", "add", other.id, *add)
        wrong = HubPeer("hub-wrong", seed=9, url=other.url)
        (tmp_path / "wrong.jwk").write_text(json.dumps(wrong.key.public.to_jwk()))
        run_in_process(
            tmp_path / "spoke", "peer", "add", wrong.id, "--key", str(tmp_path / "wrong.jwk"), "--url", other.url
        )
        code, found = await findings(tmp_path / "spoke")
        assert (code, found[f"hub {other.id}"]["state"], found["hub hub-wrong"]["state"]) == (1, "ok", "bad")
        assert "compare fingerprints" in found["hub hub-wrong"]["mend"]
        run_in_process(tmp_path / "spoke", "peer", "suspend", wrong.id)
        code, found = await findings(tmp_path / "spoke")
        assert (code, found["hub hub-wrong"]["state"]) == (0, "warn")
    code, found = await findings(tmp_path / "spoke")
    assert (code, found[f"hub {other.id}"]["state"]) == (1, "bad"), "it does not answer any more"


@pytest.mark.slow
async def test_the_doctor_finds_templates_that_cannot_be_used(directory: Path) -> None:
    head = (directory / "spoke.toml").read_text().partition("[valkey]")[0]
    (directory / "spoke.toml").write_text(head + tables(**{"agents.worker": {"profile": "fake"}}))
    (directory / "prompts").mkdir()
    (directory / "prompts" / "worker.md").write_text("do $this")
    (directory / "prompts" / "reviewer.md").write_text("do $this")
    code, found = await findings(directory)
    assert code == 1
    # `report` gets no prompt.
    assert [found[f"agents.{name}"]["state"] for name in ("worker", "reviewer")] == ["bad", "ok"]
    assert "$this is no name of ours" in found["agents.worker"]["detail"]


@pytest.mark.slow
async def test_the_doctor_misses_programs_and_variables(directory: Path, tmp_path: Path) -> None:
    head = (directory / "spoke.toml").read_text().partition("[valkey]")[0]
    needs = {"profile": "command", "command": ["sh"], "env": ["NO_SUCH_KEY"]}
    (directory / "spoke.toml").write_text(head + tables(**{"agents.worker": needs}))
    _, found = await findings(directory)
    assert (found["agents.worker"]["state"], "NO_SUCH_KEY" in found["agents.worker"]["detail"]) == ("warn", True)
    _, found = await findings(directory, NO_SUCH_KEY="1")
    assert found["agents.worker"]["state"] == "ok"
    code, found = await findings(directory, PATH=str(tmp_path))
    assert (code, found["git"]["state"], found["agents.worker"]["state"]) == (1, "bad", "bad")
    old = tmp_path / "git"
    old.write_text("#!/bin/sh\necho git version 2.20.1\n")
    old.chmod(0o755)
    _, found = await findings(directory, PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert (found["git"]["state"], found["git"]["mend"]) == ("bad", "install git 2.31 or newer")


async def test_the_doctor_says_how_to_install_an_agent_program_and_what_key_it_takes(
    directory: Path, tmp_path: Path
) -> None:
    head = (directory / "spoke.toml").read_text().partition("[valkey]")[0]
    (directory / "spoke.toml").write_text(head + tables(**{"agents.worker": {"profile": "codex", "env": ["NO_SUCH"]}}))
    keys = {"CODEX_API_KEY": "", "PATH": f"{tmp_path}:/usr/bin:/bin"}
    _, found = await findings(directory, **keys)
    assert (found["agents.worker"]["state"], found["agents.worker"]["mend"]) == (
        "bad",
        "npm install --global @openai/codex",
    )
    (tmp_path / "codex").write_text("#!/bin/sh\n")
    (tmp_path / "codex").chmod(0o755)
    _, found = await findings(directory, **keys, NO_SUCH="1")
    assert found["agents.worker"]["state"] == "ok", "one of the keys is enough"
    _, found = await findings(directory, **keys)
    assert found["agents.worker"]["detail"].endswith("NO_SUCH is not set here, so agents will not have it")


async def test_the_doctor_checks_a_valkey_that_is_not_ours(directory: Path) -> None:
    head = (directory / "spoke.toml").read_text().partition("[valkey]")[0]
    (directory / "spoke.toml").write_text(head + '[valkey]\nurl = "redis://127.0.0.1:1"\n')
    code, found = await findings(directory)
    assert (code, found["valkey"]["state"]) == (1, "bad")


async def test_a_running_spoke_says_that_it_is_ready(tmp_path: Path) -> None:
    async with SpokeNode(tmp_path) as node:
        assert document(await spoke("--dir", node.directory, "ready", "--json")) == {"status": "ready"}


async def test_profiles(directory: Path) -> None:
    rows = document(await spoke("--dir", directory, "profile", "list", "--json"))
    assert {row["profile"] for row in rows} >= {"command", "report"}
    assert {row["agentType"] for row in rows if row["profile"] == "report"} == {"worker", "reviewer", "tester"}
    text = (await spoke("--dir", directory, "profile", "list")).stdout
    assert "report" in text
    tried = document(await spoke("--dir", directory, "profile", "test", "report", "--json"))
    assert (tried["status"], tried["exitCode"]) == ("completed", 0)
    assert tried["logTail"]
    refused(await spoke("--dir", directory, "profile", "test", "nothing"), "not_found")
    refused(await spoke("--dir", directory, "profile", "test", "command"), "config")


async def test_a_profile_is_shown_with_what_is_configured(directory: Path) -> None:
    head = (directory / "spoke.toml").read_text().partition("[valkey]")[0]
    worker = {"profile": "claude", "model": "opus", "max_turns": 30}
    (directory / "spoke.toml").write_text(head + tables(**{"agents.worker": worker}))
    shown = document(await spoke("--dir", directory, "profile", "show", "claude", "--json"))
    assert (shown["name"], shown["used_by"], shown["success"]) == ("claude", ["worker"], "conclusion")
    assert {"--model=opus", "--max-turns=30"} <= set(shown["arguments"]["worker"])
    assert "--disallowedTools=Edit,Write,NotebookEdit" in shown["arguments"]["reviewer"]
    assert "model_flag" in (await spoke("--dir", directory, "profile", "show", "claude")).stdout
    assert document(await spoke("--dir", directory, "profile", "show", "command", "--json"))["takes_command"] is True
    refused(await spoke("--dir", directory, "profile", "show", "nothing"), "not_found")


async def test_the_doctor_looks_for_the_program_that_knows_credentials(directory: Path, tmp_path: Path) -> None:
    head = (directory / "spoke.toml").read_text().partition("[valkey]")[0]
    helper = tmp_path / "helper"
    push = {"repositories": ["https://git.example.org/**"], "credential_helper": str(helper)}
    (directory / "spoke.toml").write_text(head + tables(**{"agents.worker.push": push}))
    code, found = await findings(directory)
    assert (code, found["push.worker"]["state"]) == (1, "bad")
    helper.write_text("#!/bin/sh\n")
    helper.chmod(0o755)
    _, found = await findings(directory)
    assert found["push.worker"]["state"] == "ok"


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_an_interrupted_trial_leaves_no_agent(directory: Path, tmp_path: Path, signum: signal.Signals) -> None:
    head = (directory / "spoke.toml").read_text().partition("[valkey]")[0]
    started, scratch = tmp_path / "started", tmp_path / "scratch"
    scratch.mkdir()
    command = ["sh", "-c", f"echo $$ > {started}.new; mv {started}.new {started}; sleep 1000; :"]
    (directory / "spoke.toml").write_text(
        head + tables(**{"agents.worker": {"profile": "command", "command": command}})
    )
    trial = await asyncio.create_subprocess_exec(
        *(SPOKE, "--dir", directory, "profile", "test", "command"),
        env={**os.environ, "TMPDIR": str(scratch)},
        stderr=subprocess.PIPE,
    )
    await eventually(started.exists, "the agent runs")
    pid = int(started.read_text())
    trial.send_signal(signum)
    _, stderr = await trial.communicate()
    assert (trial.returncode, stderr.strip()) == (130, b"")
    await eventually(lambda: not is_alive(pid), "the agent was ended")
    assert list(scratch.iterdir()) == []


async def test_a_profile_that_does_not_work(directory: Path) -> None:
    head = (directory / "spoke.toml").read_text().partition("[valkey]")[0]
    fails = {"profile": "command", "command": ["sh", "-c", "cat >/dev/null; echo oh no; exit 7"]}
    absent = {"profile": "command", "command": ["/nonexistent"]}
    (directory / "spoke.toml").write_text(head + tables(**{"agents.worker": fails, "agents.tester": absent}))
    done = await spoke("--dir", directory, "--json", "profile", "test", "command", "--item", "x", "--timeout", "30")
    tried = json.loads(done.stdout)
    assert (done.returncode, tried["status"], tried["reason"], tried["exitCode"]) == (1, "failed", "exit_nonzero", 7)
    assert tried["logTail"] == "oh no\n"
    refused(await spoke("--dir", directory, "profile", "test", "command", "--type", "tester"), "spawn_failed")
