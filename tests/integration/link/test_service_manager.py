"""What systemd hears of both nodes, and that the units in docs/systemd ask for what the nodes do."""

from __future__ import annotations

import asyncio
import configparser
import os
import shlex
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common.service_manager import ServiceManager
from tests.integration.hub.hub_node import HUB, HubNode
from tests.spoke_node import SPOKE, SpokeNode

UNITS = Path(__file__).parents[3] / "docs" / "systemd"
PROGRAMS = {"hub": HUB, "spoke": SPOKE}
WATCHDOG_S = 0.4


class Manager:
    """The other end of NOTIFY_SOCKET."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)

    def hear(self, timeout_s: float = 10.0) -> str | None:
        """Return what is said next; None when nothing is."""
        self.socket.settimeout(timeout_s)
        try:
            return self.socket.recv(4096).decode()
        except TimeoutError:
            return None

    def forget(self) -> None:
        """Leave out what was said until now."""
        while self.hear(0.05) is not None:
            pass


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    manager = Manager(str(tmp_path / "notify"))
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", str(int(WATCHDOG_S * 1_000_000)))
    yield manager
    manager.socket.close()


NODES: dict[str, Callable[[Path], HubNode | SpokeNode]] = {"hub": HubNode, "spoke": SpokeNode}


@pytest.mark.parametrize("make", NODES.values(), ids=NODES)
def test_a_node_says_when_it_is_ready_that_it_lives_and_when_it_stops(
    manager: Manager, tmp_path: Path, make: Callable[[Path], HubNode | SpokeNode]
) -> None:
    with make(tmp_path) as node:
        assert manager.hear() == "READY=1"
        assert [manager.hear(), manager.hear()] == ["WATCHDOG=1"] * 2
        os.kill(node.pid, signal.SIGSTOP)
        manager.forget()
        assert manager.hear(3 * WATCHDOG_S) is None  # what hangs says nothing
        os.kill(node.pid, signal.SIGCONT)
        assert manager.hear() == "WATCHDOG=1"
    heard = []
    while (said := manager.hear(0.1)) is not None:
        heard.append(said)
    assert heard[-1] == "STOPPING=1"
    assert heard.count("STOPPING=1") == 1


async def said_by(manager: ServiceManager) -> None:
    task = asyncio.create_task(manager.run())
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_an_abstract_socket_is_one_too_and_nobody_watches_without_being_asked() -> None:
    name = f"hubspoke-test-{os.getpid()}"
    listening = Manager(f"\0{name}")
    await said_by(ServiceManager.of({"NOTIFY_SOCKET": f"@{name}"}))
    assert [listening.hear(1), listening.hear(1), listening.hear(0.05)] == ["READY=1", "STOPPING=1", None]
    listening.socket.close()


async def test_a_manager_that_is_away_or_none_changes_nothing(tmp_path: Path) -> None:
    await said_by(ServiceManager.of({"NOTIFY_SOCKET": str(tmp_path / "nobody")}))
    await said_by(ServiceManager.of({}))


@pytest.mark.parametrize(
    ("environment", "period_s"),
    [
        ({}, 0.0),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
    ],
)
def test_the_watchdog_is_for_the_process_that_it_names(environment: dict[str, str], period_s: float) -> None:
    assert ServiceManager.of(environment, pid=7).period_s == period_s


UNIT_COMMANDS = {"hubspoke-hub": ("hub", ["serve"]), "hubspoke-spoke": ("spoke", ["serve"]),
                 "hubspoke-worker@": ("spoke", ["worker", "%i"])}  # fmt: skip


@pytest.mark.parametrize("unit_name", UNIT_COMMANDS)
def test_a_unit_asks_for_what_the_node_does(unit_name: str) -> None:
    kind, command = UNIT_COMMANDS[unit_name]
    unit = configparser.RawConfigParser(strict=True, delimiters=("=",))
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # names as they are: the documented way
    unit.read_string((UNITS / f"{unit_name}.service").read_text())
    service = unit["Service"]
    program, *arguments = shlex.split(service["ExecStart"])
    assert Path(program).name == kind
    assert arguments == ["--dir", f"/var/lib/{service.get('StateDirectory', kind)}", *command]
    done = subprocess.run([PROGRAMS[kind], *arguments, "--help"], capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert (service["Type"], service["NotifyAccess"], service["Restart"]) == ("notify", "main", "always")
    assert int(service["WatchdogSec"]) > 0
    # Whoever kills the whole control group kills the agents.
    assert (service.get("KillMode") == "process") == (kind == "spoke")


async def test_a_start_that_takes_long_asks_for_more_time(manager: Manager) -> None:
    ServiceManager.of(os.environ).extend(60)
    assert manager.hear() == "EXTEND_TIMEOUT_USEC=60000000"
