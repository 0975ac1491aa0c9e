"""The agent of the tests: does what its work items say, one after the other. Standard library only.

Each start appends one line to the file named by $RECORD, before anything else happens.

    print TEXT      write TEXT to the log           sleep SECONDS   at most 60
    exit CODE       end at once                     wait FILE       until FILE is there, at most 60 s
    signal NAME     send itself a signal            ignore NAME     ignore a signal from now on
    write FILE      make a file in the tree         commit FILE     make one and commit it
    environment     print the environment as JSON   input           print stdin as it came
    result JSON     write the result file
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LIFETIME_S = 60


def record(task: dict[str, Any]) -> None:
    line = json.dumps({"agentId": task["agentId"], "attempt": task["attempt"], "pid": os.getpid()}) + "\n"
    fd = os.open(os.environ["RECORD"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, line.encode())
    os.close(fd)


def until_there(path: str) -> None:
    give_up_at = time.monotonic() + LIFETIME_S
    while not Path(path).exists() and time.monotonic() < give_up_at:
        time.sleep(0.005)


def commit(name: str) -> None:
    Path(name).write_text("written by the agent\n")
    subprocess.run(["git", "add", name], check=True)
    subprocess.run(["git", "commit", "-q", "-m", f"add {name}"], check=True)


signal.alarm(LIFETIME_S)  # whatever goes wrong, it does not stay
GIVEN: bytes = sys.stdin.buffer.read()
ASSIGNMENT: dict[str, Any] = json.loads(GIVEN)
record(ASSIGNMENT)

STEPS: dict[str, Callable[[str], Any]] = {
    "print": lambda text: sys.stdout.write(f"{text}\n"),
    "exit": lambda code: sys.exit(int(code)),
    "sleep": lambda seconds: time.sleep(min(float(seconds), LIFETIME_S)),
    "wait": until_there,
    "signal": lambda name: os.kill(os.getpid(), getattr(signal, name)),
    "ignore": lambda name: signal.signal(getattr(signal, name), signal.SIG_IGN),
    "write": lambda name: Path(name).write_text("written by the agent\n"),
    "commit": commit,
    "result": lambda text: Path(os.environ["HUBSPOKE_RESULT_FILE"]).write_text(text),
    "environment": lambda _: sys.stdout.write(f"{json.dumps(dict(os.environ))}\n"),
    "input": lambda _: sys.stdout.write(f"{GIVEN.decode()}\n"),
}

for item in ASSIGNMENT["context"]["workItems"]:
    step, _, rest = item.partition(" ")
    if step in STEPS:
        STEPS[step](rest)
        sys.stdout.flush()
