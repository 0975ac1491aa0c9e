"""What a keeper says of an agent it could not end; in a process of its own, because a keeper owns all its children."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[4]

KEEPER = """
import os, signal, sys
from spoke.supervision import linux
from spoke.supervision.agent_process import AgentProcess
from spoke.supervision.execution import Streams, execute
from spoke.supervision.run_dir import LaunchSpec
linux.become_subreaper()
null = os.open("/dev/null", os.O_RDWR)
argv = ("/bin/sh", "-c", "(trap '' TERM; sleep 1000 & exec sleep 1000) & exec sleep 1000")
spec = LaunchSpec(argv=argv, cwd="/", env={}, timeout_s=1)
agent = AgentProcess(execute(spec, "t", Streams(null, null), os.open("/", os.O_PATH)))
while len(linux.descendants_of(os.getpid())) < 3:
    pass
print(agent.count_survivors(), agent.main_end)
os.kill(linux.children_of(os.getpid())[0], signal.SIGTERM)
while agent.main_end is None:
    agent.reap()
print(agent.count_survivors(), agent.main_end)
while not agent.is_empty():
    agent.kill()
    agent.reap()
agent.kill()
print(agent.count_survivors(), linux.children_of(os.getpid()))
"""


def test_survivors_are_counted_and_never_denied() -> None:
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    keeper = subprocess.run(
        [sys.executable, "-c", KEEPER], env=environment, cwd="/", capture_output=True, text=True, check=True, timeout=30
    )
    assert keeper.stdout.splitlines() == [
        "3 None",
        "2 MainEnd(exit_code=None, signal='SIGTERM')",
        "0 []",
    ]
