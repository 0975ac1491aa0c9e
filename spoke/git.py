"""Calls git, hardened: no shell, no configuration but ours, no prompt, no hook, no transport that was not asked for.

Decides what a git process inherits (a listed environment), how long it may run and how much it may say, and what of its
complaint is passed on: one line, bounded, printable, without user info. Whoever calls decides where it runs; git is
never run here with the configuration of a repository that an agent could write (attack rows 50 to 53).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from common.errors import LocalError

# What of the spoke's own environment git may need: programs, ssh and netrc credentials, proxies, certificates.
_INHERITED: Final = (
    "PATH",
    "HOME",
    "TMPDIR",
    "SSH_AUTH_SOCK",
    *("http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "GIT_SSL_CAINFO"),
)
_SSH: Final = "ssh -oBatchMode=yes -oConnectTimeout=20 -oServerAliveInterval=15 -oForwardAgent=no"
_FIXED: Final = {
    "LANG": "C.UTF-8",
    "LC_ALL": "C.UTF-8",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "true",
    "SSH_ASKPASS": "true",
    "GIT_SSH_COMMAND": _SSH,
    "GIT_SSH_VARIANT": "ssh",
    "GIT_LFS_SKIP_SMUDGE": "1",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_PAGER": "cat",
    "GIT_EDITOR": "true",
    "GIT_AUTHOR_NAME": "hubspoke",
    "GIT_AUTHOR_EMAIL": "hubspoke@localhost",
    "GIT_COMMITTER_NAME": "hubspoke",
    "GIT_COMMITTER_EMAIL": "hubspoke@localhost",
}
# As GIT_CONFIG_COUNT, which beats every file that a repository could bring.
_CONFIG: Final = {
    "advice.detachedHead": "false",
    "core.attributesFile": os.devnull,
    "core.excludesFile": os.devnull,
    "core.fsmonitor": "false",
    "core.hooksPath": os.devnull,
    "core.safecrlf": "false",
    "commit.gpgSign": "false",
    "credential.helper": "",
    "diff.ignoreSubmodules": "all",
    "fetch.recurseSubmodules": "false",
    "fetch.writeCommitGraph": "false",
    "gc.auto": "0",
    "http.followRedirects": "false",
    "http.lowSpeedLimit": "1000",
    "http.lowSpeedTime": "60",
    "i18n.logOutputEncoding": "UTF-8",
    "init.defaultBranch": "main",
    "maintenance.auto": "false",
    "protocol.ext.allow": "never",
    "submodule.recurse": "false",
}

_MAX_OUTPUT: Final = 64 * 1024 * 1024
_STDERR_TAIL: Final = 8192
_MAX_DETAIL: Final = 300
_CHUNK: Final = 65_536

_USER_INFO: Final = re.compile(r"(?<=://)[^/@\s]+@")
_USELESS: Final = re.compile(
    r"(fatal: )?(Could not read from remote repository\.?|the remote end hung up.*)|Please make sure you have.*"
    r"|and the repository exists\.|(hint|warning): .*"
)
_TRANSIENT: Final = re.compile(
    r"could not resolve|temporary failure|timed out|connection (refused|reset|closed|was)|failed to connect"
    r"|couldn't connect|network is unreachable|no route to host|early eof|unexpected disconnect|remote end hung up"
    r"|returned error: (5\d\d|429|408)|connect tunnel failed, response 5\d\d|operation too slow|no space left"
    r"|cannot allocate memory|resource temporarily",
    re.IGNORECASE,
)


class GitFailed(LocalError):
    """A git process said no; the message is its own complaint, `retryable` says whether a later try may succeed."""

    code = "git_failed"

    def __init__(self, message: str, *, retryable: bool = False, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.retryable = retryable
        self.exit_code = exit_code


class Git:
    """The git program with a hardened environment; `environment` is the spoke's own, of which little is passed on."""

    def __init__(self, environment: Mapping[str, str], *, program: str = "git") -> None:
        self._program = program
        inherited = {name: environment[name] for name in _INHERITED if name in environment}
        self._environment = {**inherited, **_FIXED, **_config_variables(_CONFIG)}

    async def run(
        self,
        *arguments: str | os.PathLike[str],
        timeout_s: float,
        transport: str = "",
        stdin: bytes = b"",
        pass_fds: Collection[int] = (),
    ) -> bytes:
        """Run git to its end and return its stdout, at most 64 MiB; `transport` names the one protocol it may speak.

        Raises `GitFailed` for a non-zero exit, a missing program, too much output and after `timeout_s`, when the
        process group has been killed.
        """
        environment = {**self._environment, "GIT_ALLOW_PROTOCOL": transport}
        try:
            process = await asyncio.create_subprocess_exec(
                self._program,
                *arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                cwd="/",
                env=environment,
                start_new_session=True,
                pass_fds=tuple(pass_fds),
            )
        except OSError as error:
            raise GitFailed(f"git cannot be started: {error.strerror}; is it installed?") from error
        stdout, stderr = await _converse(process, stdin, timeout_s)
        if process.returncode != 0:
            raise _failure(stderr, process.returncode)
        return stdout


def _config_variables(config: Mapping[str, str]) -> dict[str, str]:
    variables = {"GIT_CONFIG_COUNT": str(len(config))}
    for number, (key, value) in enumerate(config.items()):
        variables |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    return variables


async def _converse(process: asyncio.subprocess.Process, stdin: bytes, timeout_s: float) -> tuple[bytes, bytes]:
    """Feed stdin, return stdout and the end of stderr; whatever goes wrong, no process and no pipe is left."""
    try:
        async with asyncio.timeout(timeout_s):
            stdout, stderr, _, _ = await asyncio.gather(
                _read_all(process),
                _read_tail(_stream(process.stderr)),
                _feed(process, stdin),
                process.wait(),
            )
    except BaseException as error:
        await asyncio.shield(_kill(process))
        if isinstance(error, TimeoutError):
            raise GitFailed(f"git did not finish within {timeout_s:g} s", retryable=True) from error
        raise
    if len(stdout) > _MAX_OUTPUT:
        raise GitFailed(f"git printed more than {_MAX_OUTPUT} bytes")
    return stdout, stderr


def _stream(stream: asyncio.StreamReader | None) -> asyncio.StreamReader:
    assert stream is not None  # noqa: S101 - for the type checker: the pipe was asked for
    return stream


async def _feed(process: asyncio.subprocess.Process, stdin: bytes) -> None:
    assert process.stdin is not None  # noqa: S101 - likewise
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(stdin)
        await process.stdin.drain()
    process.stdin.close()


async def _read_all(process: asyncio.subprocess.Process) -> bytes:
    read = bytearray()
    while chunk := await _stream(process.stdout).read(_CHUNK):
        if len(read) <= _MAX_OUTPUT:
            read += chunk
        else:
            _kill_group(process)
    return bytes(read)


async def _read_tail(stream: asyncio.StreamReader) -> bytes:
    tail = b""
    while chunk := await stream.read(_CHUNK):
        tail = (tail + chunk)[-_STDERR_TAIL:]
    return tail


async def _kill(process: asyncio.subprocess.Process) -> None:
    _kill_group(process)
    await asyncio.gather(_read_tail(_stream(process.stdout)), _read_tail(_stream(process.stderr)), process.wait())


def _kill_group(process: asyncio.subprocess.Process) -> None:
    # The group and not only git: it has ssh and https children, and a pipe that stays open would be waited for.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _failure(stderr: bytes, exit_code: int | None) -> GitFailed:
    text = stderr.decode(errors="replace")
    return GitFailed(describe(text), retryable=_TRANSIENT.search(text) is not None, exit_code=exit_code)


def describe(stderr: str) -> str:
    """Return the last line of git's complaint that says something: printable, bounded, without user info."""
    lines: Sequence[str] = [line.strip() for line in re.split(r"[\r\n]", stderr) if line.strip()]
    telling = [line for line in lines if not _USELESS.fullmatch(line)] or lines or ["git failed without a word"]
    line = _USER_INFO.sub("", telling[-1])[:_MAX_DETAIL]
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in line)
