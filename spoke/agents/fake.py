"""The fake agent: does what its work items say, one after the other, and prints what Claude Code would print.

Deterministic and without an account, for tests of spokes and hubs. A work item that is no step is said. Each start adds
a line to the file named by $FAKE_RECORD, before anything else happens. Standard library only.

    say TEXT       text of the model               print TEXT     a line that is no event
    use TOOL TEXT  a tool                          spend USD      what it costs
    sleep SECONDS  at most 600                     listen         wait for a message and do what its lines say
    exit CODE      end at once, without a word     fail TEXT      end with an error, and with exit code 0
    lie            conclude well and exit with 3   signal NAME    send itself a signal
    write FILE     make a file in the tree         commit FILE    make one and commit it
    result JSON    write the result file           environment    print the environment as JSON
    ignore-term    ignore SIGTERM from now on      grow MIB       take that much memory
    fork N         N children that sleep           escape         a daemon that ignores SIGTERM
    flood MIB      that much output                skills         say which skills are there

It ends itself where `spend` comes to more than --max-budget-usd, and where tools were used --max-turns times.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NoReturn

_LONGEST_S: Final = 600
_MIB: Final = 1024 * 1024
_held: list[bytes] = []


class Failed(Exception):
    """The agent concludes that it failed; `subtype` is what Claude Code would call it."""

    def __init__(self, text: str, subtype: str = "success") -> None:
        super().__init__(text)
        self.subtype = subtype


def emit(**event: Any) -> None:
    """Print one event."""
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def block(**content: Any) -> None:
    """Print a block of the model's."""
    emit(type="assistant", message={"role": "assistant", "content": [content]})


class Fake:
    """One run, under the caps among its `options`; `session` goes on where another run of it ended."""

    def __init__(self, session: str, messages: Iterator[str], options: dict[str, str]) -> None:
        self.session = session
        self._max_turns = float(options.get("--max-turns", "inf"))
        self._max_cost_usd = float(options.get("--max-budget-usd", "inf"))
        self._used = 0
        self.messages = messages
        self.cost_usd = 0.0
        self.turns = 0
        self.said = ""

    def work(self, items: list[str]) -> None:
        """Do one item after the other."""
        for item in items:
            name, _, rest = item.partition(" ")
            step = STEPS.get(name)
            if step is None:
                self.say(item)
            else:
                step(self, rest)

    def say(self, text: str) -> None:
        """Say something."""
        self.said = text
        block(type="text", text=text)

    def listen(self, _: str = "") -> None:
        """Wait for a message, as the program would take one while it works, and do what its lines say."""
        _print(self, "listening")
        text = next(self.messages, None)
        if text is not None:
            self.say(f"heard: {text}")
            self.work(text.splitlines())

    def use(self, rest: str) -> None:
        """Use a tool."""
        tool, _, text = rest.partition(" ")
        block(type="tool_use", name=tool, input={"command": text})
        self._used += 1
        if self._used >= self._max_turns:
            raise Failed("used a tool as often as it may", "error_max_turns")

    def spend(self, dollars: str) -> None:
        """Cost something."""
        self.cost_usd += float(dollars)
        if self.cost_usd > self._max_cost_usd:
            raise Failed("spent more than it may", "error_max_budget_usd")

    def conclude(self, *, failed: str | None = None, subtype: str = "success") -> None:
        """Print the end of a turn."""
        self.turns += 1
        emit(
            type="result",
            subtype=subtype,
            is_error=failed is not None,
            result=failed or self.said,
            session_id=self.session,
            num_turns=self.turns,
            total_cost_usd=self.cost_usd,
            usage={"input_tokens": 10 * self.turns, "output_tokens": self.turns},
        )


def _sleep(_: Fake, seconds: str) -> None:
    time.sleep(min(float(seconds), _LONGEST_S))


def _print(_: Fake, text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _exit(_: Fake, code: str) -> NoReturn:
    sys.exit(int(code))


def _fail(_: Fake, text: str) -> NoReturn:
    raise Failed(text)


def _lie(fake: Fake, _: str) -> NoReturn:
    fake.conclude()
    sys.exit(3)


def _signal(_: Fake, name: str) -> None:
    os.kill(os.getpid(), getattr(signal, name))


def _write(_: Fake, name: str) -> None:
    Path(name).write_text("written by the fake agent\n")


def _commit(fake: Fake, name: str) -> None:
    _write(fake, name)
    subprocess.run(["git", "add", "--", name], check=True)
    subprocess.run(["git", "commit", "-q", "-m", f"Add {name}"], check=True)


def _result(_: Fake, text: str) -> None:
    Path(os.environ["HUBSPOKE_RESULT_FILE"]).write_text(text)


def _environment(fake: Fake, _: str) -> None:
    _print(fake, json.dumps(dict(os.environ)))


def _ignore_term(_: Fake, __: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _grow(_: Fake, mib: str) -> None:
    _held.append(b"x" * (int(mib) * _MIB))


def _fork(_: Fake, count: str) -> None:
    for _child in range(int(count)):
        if os.fork() == 0:
            _sleep_for_ever()


def _escape(_: Fake, __: str) -> None:
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            _sleep_for_ever()
        os._exit(0)
    os.wait()


def _sleep_for_ever() -> NoReturn:
    time.sleep(_LONGEST_S)
    os._exit(0)


def _flood(_: Fake, mib: str) -> None:
    line = b"flood " * 170 + b"\n"
    for _line in range(int(mib) * _MIB // len(line)):
        sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


def _skills(fake: Fake, _: str) -> None:
    names = sorted(path.parent.name for path in (Path.home() / ".claude" / "skills").glob("*/SKILL.md"))
    fake.say(f"skills: {' '.join(names) or 'none'}")


STEPS: Final[dict[str, Callable[[Fake, str], None]]] = {
    "say": Fake.say,
    "print": _print,
    "use": Fake.use,
    "spend": Fake.spend,
    "sleep": _sleep,
    "listen": Fake.listen,
    "exit": _exit,
    "fail": _fail,
    "lie": _lie,
    "signal": _signal,
    "write": _write,
    "commit": _commit,
    "result": _result,
    "environment": _environment,
    "ignore-term": _ignore_term,
    "grow": _grow,
    "fork": _fork,
    "escape": _escape,
    "flood": _flood,
    "skills": _skills,
}


def _messages() -> Iterator[str]:
    for line in sys.stdin:
        yield "\n".join(part.get("text", "") for part in json.loads(line)["message"]["content"])


def _record(task: dict[str, Any]) -> None:
    path = os.environ.get("FAKE_RECORD")
    if path:
        line = json.dumps({"agentId": task["agentId"], "attempt": task["attempt"], "pid": os.getpid()}) + "\n"
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(fd, line.encode())
        os.close(fd)


def _items(first: str, task: dict[str, Any], session: Path) -> list[str]:
    """Return what to do: the task's items in a session's first run, the lines of the message in a later one."""
    runs = int(session.read_text()) if session.exists() else 0
    session.write_text(str(runs + 1))
    if runs == 0:
        items: list[str] = task["context"]["workItems"]
        return items
    message = first.partition("<message>\n")[2].partition("\n</message>")[0]
    return [f"say resumed after {runs}", *(message or first).splitlines()]


def main(arguments: list[str]) -> int:
    """Run to the end and return the exit code."""
    task = json.loads(Path(os.environ["HUBSPOKE_TASK_FILE"]).read_text())
    _record(task)
    *flags, _, session = arguments  # the profile says how it begins last, behind what the operator added
    messages = _messages()
    emit(type="system", subtype="init", session_id=session, model="fake")
    first = next(messages, "")
    fake = Fake(session, messages, dict(flag.split("=", 1) for flag in flags if "=" in flag))
    try:
        fake.work(_items(first, task, Path.home() / f"fake-{session}"))
    except Failed as error:
        fake.conclude(failed=str(error), subtype=error.subtype)
    else:
        fake.conclude()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
