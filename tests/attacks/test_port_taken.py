"""While a node is down another program may listen on its port: it gets no token from our commands."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from hub.client import HubClient, NodeUnreachable

BIN = Path(sys.executable).parent
pytestmark = [pytest.mark.attack(58), pytest.mark.attack(63)]


def run(node: str, home: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([BIN / node, "--dir", home, *command], check=False, capture_output=True, text=True)


def heard(listener: socket.socket) -> bool:
    """Whether anybody connected; what connects to a listener on loopback is there before `connect` returns."""
    listener.setblocking(False)
    try:
        listener.accept()
    except BlockingIOError:
        return False
    return True


@pytest.mark.parametrize("stale", [False, True], ids=["configured", "left behind by a crash"])
@pytest.mark.parametrize(
    ("node", "command", "code"),
    [("hub", ["list"], "node_unreachable"), ("spoke", ["agent", "list"], "unreachable")],
    ids=["hub", "spoke"],
)
def test_a_command_does_not_call_who_took_the_port(
    node: str, command: list[str], code: str, stale: bool, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        run(node, home, "init", "ours", "--listen", address)
        if stale:
            (home / "node.url").write_text(f"http://{address}\n")
        done = run(node, home, *command)
        assert (done.returncode, done.stderr.split(": ")[:2]) == (3, ["error", code])
        assert not heard(listener)


async def test_a_wait_that_goes_on_does_not_call_them_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hub.asking.PAUSE_S", 0)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with HubClient(url, "the token", is_up=lambda: False) as hub:
            with pytest.raises(NodeUnreachable):
                await hub.ready()
            with pytest.raises(NodeUnreachable):
                await anext(hub.events({}))
        assert not heard(listener)
