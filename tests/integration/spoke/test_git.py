from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from spoke import git as git_module
from spoke.git import Git, GitFailed, describe


def program(tmp_path: Path, script: str) -> Git:
    """A git that is a shell script."""
    path = tmp_path / "git"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return Git(os.environ, program=str(path))


async def test_stdout_is_returned_and_stdin_is_fed(tmp_path: Path) -> None:
    git = program(tmp_path, 'cat; printf " %s" "$@"')
    assert await git.run("a", "b c", timeout_s=10, stdin=b"in") == b"in a b c"


async def test_a_git_that_reads_nothing_is_no_failure(tmp_path: Path) -> None:
    assert await program(tmp_path, "exec 0<&-; echo done").run(timeout_s=10, stdin=b"x" * 1_000_000) == b"done\n"


@pytest.mark.attack(53)
async def test_git_gets_a_listed_environment_only(tmp_path: Path) -> None:
    hostile = {"GIT_SSH_COMMAND": "touch x", "LD_PRELOAD": "x", "GIT_CONFIG_PARAMETERS": "'a'='b'", "TOKEN": "secret"}
    path = tmp_path / "git"
    path.write_text("#!/bin/sh\nenv\n")
    path.chmod(0o755)
    output = await Git({**os.environ, **hostile}, program=str(path)).run(timeout_s=10, transport="ssh")
    variables = dict(line.split("=", 1) for line in output.decode().splitlines())
    assert variables["GIT_SSH_COMMAND"].startswith("ssh -oBatchMode=yes")
    assert variables["GIT_ALLOW_PROTOCOL"] == "ssh"
    assert not {"LD_PRELOAD", "GIT_CONFIG_PARAMETERS", "TOKEN"} & variables.keys()


@pytest.mark.attack(50)
@pytest.mark.parametrize("url", ["ext::sh -c 'touch {marker}'", "fd::0", "file://{source}", "{source}"])
async def test_a_transport_that_was_not_asked_for_is_refused_by_git_too(tmp_path: Path, url: str) -> None:
    git = Git(os.environ)
    await git.run("init", "-q", str(tmp_path / "source"), timeout_s=10)
    address = url.format(marker=tmp_path / "marker", source=tmp_path / "source")
    with pytest.raises(GitFailed, match="not allowed") as failed:
        await git.run("ls-remote", "--", address, timeout_s=10, transport="https")
    assert not failed.value.retryable
    assert not (tmp_path / "marker").exists()


async def test_a_git_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    git = program(tmp_path, f"sh -c 'echo $$ > {tmp_path}/child; exec sleep 1000' & echo $$ > {tmp_path}/parent; wait")
    with pytest.raises(GitFailed, match="within") as failed:
        await git.run(timeout_s=0.5)
    assert failed.value.retryable
    await gone(tmp_path / "child")
    await gone(tmp_path / "parent")


async def test_a_cancelled_call_leaves_nothing(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    git = program(tmp_path, f"echo $$ > {ready}.new; mv {ready}.new {ready}; exec sleep 1000")
    task = asyncio.create_task(git.run(timeout_s=100))
    async with asyncio.timeout(10):
        while not await asyncio.to_thread(ready.exists):  # noqa: ASYNC110 - another process makes it
            await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await gone(ready)


async def gone(pid_file: Path) -> None:
    """Wait until the process named in a file is no more; a killed orphan is reaped by init in its own time."""
    status = Path("/proc") / (await asyncio.to_thread(pid_file.read_text)).strip() / "stat"
    async with asyncio.timeout(10):
        while await asyncio.to_thread(is_alive, status):  # noqa: ASYNC110 - the kernel does it
            await asyncio.sleep(0.01)


def is_alive(status: Path) -> bool:
    try:
        return status.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


async def test_endless_output_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(git_module, "_MAX_OUTPUT", 100_000)
    with pytest.raises(GitFailed, match="more than 100000 bytes"):
        await program(tmp_path, "exec yes").run(timeout_s=20)


async def test_a_flood_of_complaints_does_not_fill_the_memory(tmp_path: Path) -> None:
    git = program(tmp_path, "yes | head -c 20000000 >&2; echo 'fatal: the end' >&2; exit 3")
    with pytest.raises(GitFailed, match="fatal: the end") as failed:
        await git.run(timeout_s=30)
    assert failed.value.exit_code == 3


async def test_no_git_at_all(tmp_path: Path) -> None:
    with pytest.raises(GitFailed, match="is it installed"):
        await Git(os.environ, program=str(tmp_path / "nothing")).run(timeout_s=10)


COMPLAINTS = {
    "the last that says something": (
        "warning: x\nfatal: '/srv/app' does not appear to be a git repository\n"
        "fatal: Could not read from remote repository.\n\n"
        "Please make sure you have the correct access rights\nand the repository exists.\n",
        "fatal: '/srv/app' does not appear to be a git repository",
    ),
    "no user info": (
        "fatal: Authentication failed for 'https://bot:s3cret@h/a'",
        "fatal: Authentication failed for 'https://h/a'",
    ),
    "printable": ("remote: \x1b[31mred\u202e\r\n", "remote: \\x1b[31mred\\u202e"),
    "bounded": ("x" * 1000, "x" * 300),
    "nothing": ("", "git failed without a word"),
    "only what says nothing": ("hint: try again", "hint: try again"),
}


@pytest.mark.parametrize(("stderr", "line"), COMPLAINTS.values(), ids=COMPLAINTS.keys())
def test_a_complaint_becomes_one_line(stderr: str, line: str) -> None:
    assert describe(stderr) == line


TRANSIENT = [
    "ssh: Could not resolve hostname h: Name or service not known",
    "ssh: connect to host h port 22: Connection refused",
    "fatal: unable to access 'https://h/a/': Failed to connect to h port 443",
    "fatal: unable to access 'https://h/a/': The requested URL returned error: 503",
    "fatal: unable to access 'https://h/a/': CONNECT tunnel failed, response 502",
    "fatal: early EOF",
    "error: unable to write file x: No space left on device",
]
LASTING = [
    "fatal: couldn't find remote ref refs/heads/nope",
    "fatal: repository 'https://h/a/' not found",
    "git@h: Permission denied (publickey).\nfatal: Could not read from remote repository.",
    "fatal: could not read Username for 'https://h': terminal prompts disabled",
    "fatal: unable to access 'https://h/a/': The requested URL returned error: 403",
]


@pytest.mark.parametrize("complaint", [*TRANSIENT, *LASTING])
async def test_only_what_may_pass_is_retryable(tmp_path: Path, complaint: str) -> None:
    (tmp_path / "complaint").write_text(complaint)
    with pytest.raises(GitFailed) as failed:
        await program(tmp_path, f"cat {tmp_path}/complaint >&2; exit 128").run(timeout_s=10)
    assert failed.value.retryable == (complaint in TRANSIENT)
