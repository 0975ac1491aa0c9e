"""An agent that looks around: says as JSON, its result's data, what it can see, read, write and reach.

Its work items are what to try: `read PATH`, `write PATH`, `list PATH`, `connect HOST PORT`, `processes`, `commit NAME`,
`variable NAME`.
Standard library only.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

signal.alarm(30)


def tried(what: Callable[[], Any]) -> Any:
    try:
        return what()
    except OSError as error:
        return type(error).__name__


def connect(host: str, port: str) -> str:
    with socket.create_connection((host, int(port)), 5):
        return "connected"


def write(path: str) -> str:
    Path(path).write_text("written\n")
    return "written"


def commit(name: str) -> str:
    Path(name).write_text("written by the agent\n")
    subprocess.run(["git", "add", name], check=True)
    subprocess.run(["git", "commit", "-q", "-m", f"add {name}"], check=True)
    return "committed"


STEPS: dict[str, Callable[..., Any]] = {
    "read": lambda path: len(Path(path).read_bytes()),
    "write": write,
    "list": lambda path: sorted(os.listdir(path)),  # noqa: PTH208 - names are what is asked for
    "connect": connect,
    "processes": lambda: len([name for name in os.listdir("/proc") if name.isdecimal()]),  # noqa: PTH208 - likewise
    "commit": commit,
    "variable": os.environ.get,
}

task = json.loads(sys.stdin.buffer.read())
seen = {}
for item in task["context"]["workItems"]:
    step, *arguments = item.split()
    seen[item] = tried(lambda step=step, arguments=arguments: STEPS[step](*arguments))  # type: ignore[misc]
Path(os.environ["HUBSPOKE_RESULT_FILE"]).write_text(json.dumps({"summary": None, "data": seen}))
