"""Machines for the commands of a page: each a home and an address of its own on this one, and a shell that stays.

`build-1$ spoke init build-1` runs on the machine `build-1`, `$ hub list` on one without a name. Names, ports and paths
are those of the page: a machine listens on an address of its own in 127.0.0.0/8, `hub.example.org` is found by the
proxy through which machines reach each other (`network.py`), and `/home/build-1` is the home there, `/home/ops` that of
the one without a name.
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import copy2
from typing import Final

from tests.docs.blocks import ROOT
from tests.spoke_node import processes_of, until

NAMELESS: Final = "ops"
LOOPBACK: Final = "127.0.0.1"
EVERYWHERE: Final = "0.0.0.0"  # noqa: S104  # on a page; no machine of these tests listens there
DEADLINE_S: Final = 90.0
"""How long one command may take on a computer that does much else."""
_STAND_INS: Final = {
    # The interpreter of these tests, for which the packages below were built.
    "python3": f'exec "{Path(sys.base_prefix) / "bin" / "python{}.{}".format(*sys.version_info)}" "$@"',
    # There is no ssh between two homes; `scp FILE… MACHINE:` copies from one to the other.
    "scp": 'for to; do :; done\nwhile [ $# -gt 1 ]; do cp "$1" "$MACHINES/${to%%:*}/${to#*:}" || exit; shift; done',
}
_PYTHON: Final = "python{}.{}".format(*sys.version_info)


class Place:
    """Where all machines of a page are: their homes, their commands, and the packages that pip would download."""

    def __init__(self, path: Path, patience_s: float) -> None:
        self.path = path
        self.proxy = ""
        self._patience_s = patience_s
        self.machines: dict[str, Machine] = {}
        self.bin = path / "bin"
        self.bin.mkdir(parents=True)
        for name, script in _STAND_INS.items():
            (self.bin / name).write_text(f"#!/bin/sh\n{script}\n")
            (self.bin / name).chmod(0o755)

    def machine(self, name: str) -> Machine:
        """Return the machine of that name, a new one where it was not seen before."""
        name = name or NAMELESS
        if name not in self.machines:
            self.machines[name] = Machine(self, name)
        return self.machines[name]

    def address_of(self, host: str) -> str:
        """Return where `hub.example.org` is: on the machine of the first part of its name; raises `OSError`."""
        machine = self.machines.get(host.partition(".")[0])
        if machine is None:
            raise OSError(f"nobody has the name {host}")
        return machine.address

    def real(self, text: str) -> str:
        """Return what a page says with the homes as they really are."""
        return text.replace("/home/", f"{self.path}/")

    def shown(self, text: str) -> str:
        """Return what was printed with the homes as they are on a page."""
        return text.replace(f"{self.path}/", "/home/")

    def end(self) -> dict[int, str]:
        """End shells and nodes by what their operators use; returns what had to be killed all the same."""
        for machine in self.machines.values():
            machine.close()
        for pid, command in processes_of(self.path).items():
            if re.search(r"/(hub|spoke) (--dir \S+ )?serve$", command):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
        with suppress(AssertionError):
            until(lambda: not processes_of(self.path), "all processes of the page end", self._patience_s)
        left = processes_of(self.path)
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if left:
            until(lambda: not processes_of(self.path), "what was killed is gone", 10)
        return left


class Machine:
    """One machine: `run` is what somebody types there."""

    def __init__(self, place: Place, name: str) -> None:
        self.address = ".".join(["127", *(str(random.randint(1, 254)) for _ in range(3))])
        self.shown_as = LOOPBACK
        """Where a page sees it listen."""
        self.home = place.path / name
        self.place = place
        self._commands = 0
        self._talk = place.path / f".{name}"
        self._talk.mkdir()
        self._furnish()
        with (self._talk / "shell").open("wb") as complaints:
            self._shell = subprocess.Popen(
                ["bash", "--noprofile", "--norc"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=complaints,
                cwd=self.home,
                env=self._environment(),
                text=True,
            )

    def _furnish(self) -> None:
        """Put into the home what a page takes for granted: a checkout, an author for git, packages within reach."""
        checkout = self.home / "hubspoke"
        listed = subprocess.run(
            ["git", "-C", ROOT, "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
            check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        for name in filter(None, listed.split("\0")):
            if (ROOT / name).is_file():
                (checkout / name).parent.mkdir(parents=True, exist_ok=True)
                copy2(ROOT / name, checkout / name)
        author = "[user]\nname = Ops\nemail = ops@example.org\n"
        (self.home / ".gitconfig").write_text(f"{author}[init]\ndefaultBranch = main\n")
        for environment in (checkout / ".venv", self.home / "venv"):
            self._link_packages(environment / "lib" / _PYTHON / "site-packages")

    def _link_packages(self, site: Path) -> None:
        """Let pip find every locked package installed where a page makes an environment, but not this project."""
        links = self._talk / "packages"
        if not links.is_dir():
            links.mkdir()
            for entry in (Path(sys.prefix) / "lib" / _PYTHON / "site-packages").iterdir():
                if "hubspoke" not in entry.name and not entry.name.startswith("pip"):
                    (links / entry.name).symlink_to(entry)
        site.mkdir(parents=True)
        (site / "downloaded.pth").write_text(f"{links}\n")

    def _environment(self) -> dict[str, str]:
        return {
            "HOME": str(self.home),
            "PATH": f"{self.place.bin}:{os.environ['PATH']}:{Path(sys.executable).parent}",
            "LANG": "C.UTF-8",
            "HUB_NODE__LISTEN": f"{self.address}:8700",
            "SPOKE_NODE__LISTEN": f"{self.address}:8701",
            "HTTPS_PROXY": self.place.proxy,
            "MACHINES": str(self.place.path),
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }

    def told(self, text: str) -> None:
        """Take note of where its node listens according to a command or a file."""
        if re.search(rf'listen[ ="]+{re.escape(EVERYWHERE)}:', text):
            self.shown_as = EVERYWHERE

    def run(self, command: str) -> Command:
        """Type a command and wait until the shell is done with it; one that ends with `&` goes on."""
        self._commands += 1
        given = Command(self, self._talk / f"{self._commands}.status", self._talk / f"{self._commands}.output")
        assert self._shell.stdin is not None
        self.told(command)
        typed = self.place.real(command).replace(LOOPBACK, self.address)
        self._shell.stdin.write(f"{{ {typed}\n}} </dev/null >{given.output} 2>&1\necho $? >{given.status}\n")
        self._shell.stdin.flush()
        until(lambda: self._is_over(given), f"the end of {command!r}", DEADLINE_S)
        return given

    def _is_over(self, given: Command) -> bool:
        assert self._shell.poll() is None, (self._talk / "shell").read_text()
        return given.status.exists() and given.status.read_text().endswith("\n")

    def close(self) -> None:
        """Leave the shell; one whose command does not end is killed, and its command with the rest of the page."""
        assert self._shell.stdin is not None
        with suppress(OSError):
            self._shell.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._shell.wait(5)
        self._shell.kill()
        self._shell.wait()


class Command:
    """A command that was typed."""

    def __init__(self, machine: Machine, status: Path, output: Path) -> None:
        self.status = status
        self.output = output
        self._machine = machine

    @property
    def succeeded(self) -> bool:
        """Whether it ended with 0."""
        return self.status.read_text() == "0\n"

    @property
    def printed(self) -> str:
        """What it printed so far, in the words of a page."""
        text = self._machine.place.shown(self.output.read_text(encoding="utf-8"))
        return text.replace(self._machine.address, self._machine.shown_as)


@contextmanager
def machines(path: Path, patience_s: float = 30) -> Iterator[Place]:
    """Open a place for the machines of one page; `patience_s` after its end nothing of it may be left."""
    place = Place(path, patience_s)
    try:
        yield place
    except BaseException:
        place.end()
        raise
    assert place.end() == {}, "processes outlived the page"
