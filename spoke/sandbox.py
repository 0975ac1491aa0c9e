"""The sandbox of an agent: the argv of bubblewrap that shows it its own things, read-only programs, and nothing else.

Decides what can be seen: the agent's tree, its repository and what it writes of its run, writable; the mirror it
borrows objects from, the system's programs and what the operator lists, read-only. The spoke's directory (keys, trust,
token, queue, other agents) and everybody's homes are not there, and neither is the network unless asked for (attack
rows 52, 53). Refuses to run an agent plainly where the sandbox was asked for and cannot be had.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from common.agent_state import AgentType
from common.errors import LocalError
from spoke.confinement import SandboxConfig
from spoke.runs import Run
from spoke.supervision.supervisor import LaunchFailed
from spoke.workspace import Workspace

PROGRAM: Final = "bwrap"
_SYSTEM: Final = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
# Names, certificates and how programs are found; nothing that holds a secret, such as /etc/ssl/private.
_ETC: Final = (
    *("alternatives", "ca-certificates", "ca-certificates.conf", "crypto-policies", "group", "host.conf", "hosts"),
    *("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "mime.types", "nsswitch.conf", "passwd"),
    *("pki/ca-trust", "pki/tls/cert.pem", "pki/tls/certs", "protocols", "resolv.conf", "services"),
    *("ssl/cert.pem", "ssl/certs", "ssl/openssl.cnf", "timezone"),
)
# --new-session: no input for the terminal that a spoke may have been started from (TIOCSTI).
_APART: Final = ("--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL")
_SHM_BYTES: Final = 64 * 1024 * 1024
"""What an agent may keep in shared memory: no limit of memory counts it while no process maps it."""
_PROBE_TIMEOUT_S: Final = 10


class SandboxMissing(LaunchFailed):
    """The sandbox that was asked for cannot be had, so the agent is not started."""

    retryable = False


@dataclass(frozen=True, slots=True)
class Sandbox:
    """Confines agents of one type; `hidden` is the spoke's directory. Raises LocalError for a listed path."""

    config: SandboxConfig
    hidden: Path

    def __post_init__(self) -> None:
        for path in (*self.config.read_only, *self.config.writable):
            if _would_show(Path(path), self.hidden):
                raise LocalError(f"{path} would show agents the spoke's own directory; list another", code="config")

    def confine(
        self, argv: Sequence[str], workspace: Workspace, run: Run, search_path: str | None, *, may_change: bool = True
    ) -> tuple[str, ...]:
        """Return the argv that runs `argv` confined, its tree writable if it `may_change`; raises `SandboxMissing`."""
        program = find_program(search_path)
        if program is None:
            raise SandboxMissing('sandbox = "bwrap" and there is no bwrap in PATH; install bubblewrap')
        hidden = str(self.hidden)
        shown = [
            *_system(),
            # On disk, where what an agent leaves is counted, and not in memory.
            *("--bind", str(run.temporary), "/tmp", "--symlink", "/tmp", "/var/tmp"),  # noqa: S108 - not the machine's
            *_each("--ro-bind", [*_programs(argv), *self.config.read_only]),
            *_each("--bind", self.config.writable),
            # Whatever was shown above it: the spoke's directory is empty but for what follows.
            *("--tmpfs", hidden),
            *_each("--ro-bind", [workspace.objects, run.task_file]),
            *_each("--ro-bind-try", [run.prompt_file]),
            *_each("--bind" if may_change else "--ro-bind", [workspace.tree, workspace.repo]),
            *_each("--bind", [run.home, run.temporary, run.result_file.parent]),
            *("--remount-ro", hidden, "--remount-ro", "/"),
        ]
        network = ("--share-net",) if self.config.network else ()
        return (program, *_APART, *network, *shown, "--chdir", str(workspace.tree), "--", *argv)


def find_program(search_path: str | None) -> str | None:
    """Return where bwrap is, None when it is not installed."""
    return shutil.which(PROGRAM, path=search_path)


def probe(program: str) -> str | None:
    """Return None when a sandbox can be had here, else one line of why not; blocks for a moment."""
    argv = [program, *_APART, *_system(), "--", "true"]
    try:
        tried = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_PROBE_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"bwrap cannot be run: {error}"
    return None if tried.returncode == 0 else (tried.stderr.strip().splitlines() or ["bwrap failed without a word"])[-1]


def _system() -> list[str]:
    """Return what makes programs run: the system read-only, a /proc of its own, a bare /dev."""
    arguments: list[str] = []
    for place in _SYSTEM:
        if Path(place).is_symlink():  # as on every system whose /bin is /usr/bin
            arguments += ["--symlink", str(Path(place).readlink()), place]
        else:
            arguments += ["--ro-bind-try", place, place]
    arguments += _each("--ro-bind-try", [f"/etc/{name}" for name in _ETC])
    return [*arguments, "--proc", "/proc", "--dev", "/dev", "--size", str(_SHM_BYTES), "--tmpfs", "/dev/shm"]  # noqa: S108


def _programs(argv: Sequence[str]) -> Iterator[str]:
    """Yield what the operator's own command names: its files, and our Python as a whole where it is that."""
    for argument in argv:
        if argument == sys.executable:
            yield from (place for place in {sys.prefix: 0, sys.base_prefix: 0} if not _is_system(place))
        elif argument.startswith("/") and Path(argument).is_file() and not _is_system(argument):
            yield argument


def _is_system(path: str) -> bool:
    # Of /dev and /proc it has its own: /dev/stdout there is the agent's, and not the file that ours may be.
    return any(path == place or path.startswith(f"{place}/") for place in (*_SYSTEM, "/dev", "/proc"))


def _each(option: str, paths: Sequence[str | Path]) -> list[str]:
    return [part for path in paths for part in (option, str(path), str(path))]


def _would_show(path: Path, hidden: Path) -> bool:
    """Whether a path leads to the spoke's directory in a way that emptying that directory would not undo."""
    real, hidden = path.resolve(), hidden.resolve()
    if real.is_relative_to(hidden):
        return True
    return hidden.is_relative_to(real) and real != path


def sandboxes(configured: Mapping[AgentType, SandboxConfig], hidden: Path) -> dict[AgentType, Sandbox]:
    """Return the sandbox of each agent type that has one; raises LocalError `config`."""
    return {name: Sandbox(config, hidden) for name, config in configured.items() if config.sandbox == "bwrap"}
