"""Agents that are told more while they run: nothing twice, nothing lost, and an input that is closed in the end."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from spoke.supervision.input_feed import InputClosed, message_line
from spoke.supervision.run_dir import LaunchSpec
from spoke.supervision.supervisor import Supervisor

from .agents import python, says, until

ANSWERS = """
import json, sys
for line in sys.stdin:
    said = json.loads(line)
    print("heard", said["say"], flush=True)
    print(json.dumps({"type": "result", "of": said["say"]}), flush=True)
print("closed", flush=True)
"""
"""Answers each message with the end of a turn, and ends with its input."""


def talking(work: Path, script: str = ANSWERS, *messages: str, **changes: Any) -> LaunchSpec:
    lines = [message_line(f"id-{number}", line(text)) for number, text in enumerate(messages or ("first",))]
    members = {"stream": True, "turn_end": "result", "stdin": b"".join(lines), **changes}
    return python(script, work, **members)


def line(text: str) -> bytes:
    return json.dumps({"say": text}).encode()


def log_of(run_dir: Path) -> list[str]:
    return [each for each in (run_dir / "log").read_text().splitlines() if not each.startswith("{")]


async def test_the_input_stays_open_until_everything_was_answered(
    supervisor: Supervisor, run_dir: Path, work: Path
) -> None:
    await supervisor.start(run_dir, talking(work))
    ending = await supervisor.wait(run_dir)
    assert (ending.cause, ending.exit_code) == ("exited", 0)
    assert log_of(run_dir) == ["heard first", "closed"]


async def test_without_an_answer_to_wait_for_the_input_ends_with_the_last_message(
    supervisor: Supervisor, run_dir: Path, work: Path
) -> None:
    await supervisor.start(run_dir, talking(work, ANSWERS, "a", "b", turn_end=None))
    await supervisor.wait(run_dir)
    assert log_of(run_dir) == ["heard a", "heard b", "closed"]


async def test_a_message_for_a_running_agent_arrives_once_however_often_it_is_sent(
    supervisor: Supervisor, run_dir: Path, work: Path
) -> None:
    script = "import sys; sys.stdin.readline(); print('ready', flush=True)\n" + ANSWERS
    await supervisor.start(run_dir, talking(work, script))
    await until(says(run_dir, "ready"))
    for _ in range(3):
        supervisor.send(run_dir, "id-x", line("more"))
    await supervisor.wait(run_dir)
    assert log_of(run_dir) == ["ready", "heard more", "closed"]


async def test_another_supervisor_can_send_after_the_first_is_gone(
    nursery_env: dict[str, str], run_dir: Path, work: Path
) -> None:
    script = "import sys; sys.stdin.readline(); print('ready', flush=True)\n" + ANSWERS
    async with Supervisor(nursery_env=nursery_env) as first:
        await first.start(run_dir, talking(work, script))
        await until(says(run_dir, "ready"))
    async with Supervisor(nursery_env=nursery_env) as second:
        second.send(run_dir, "id-x", line("still there?"))
        await second.wait(run_dir)
    assert log_of(run_dir) == ["ready", "heard still there?", "closed"]


async def test_who_has_ended_or_closed_its_input_is_told_nothing(
    supervisor: Supervisor, run_dir: Path, work: Path
) -> None:
    await supervisor.start(run_dir, talking(work, ANSWERS + "\nimport time; time.sleep(1000)"))
    await until(says(run_dir, "closed"))
    with pytest.raises(InputClosed):
        supervisor.send(run_dir, "id-x", line("too late"))
    supervisor.send(run_dir, "id-0", line("first"))  # that one was told: told again it is the same
    await supervisor.kill(run_dir, 0, "test")
    await supervisor.wait(run_dir)
    with pytest.raises(InputClosed):
        supervisor.send(run_dir, "id-y", line("even later"))


async def test_who_takes_no_messages_is_told_none(supervisor: Supervisor, run_dir: Path, work: Path) -> None:
    await supervisor.start(run_dir, python("import sys; sys.stdin.read()", work, stdin=b"all of it"))
    await supervisor.wait(run_dir)
    with pytest.raises(InputClosed):
        supervisor.send(run_dir, "id-x", line("more"))
    assert (run_dir / "stdin").read_bytes() == b"all of it"


async def test_more_than_a_pipe_holds_and_an_agent_that_is_slow_to_read(
    supervisor: Supervisor, run_dir: Path, work: Path
) -> None:
    script = "import os, time\nprint('waits', flush=True)\nwhile not os.path.exists('go'): time.sleep(0.01)\n" + (
        ANSWERS.replace('said["say"]', 'len(said["say"])', 1)
    )
    await supervisor.start(run_dir, talking(work, script, "x" * 300_000, "y" * 200_000))
    await until(says(run_dir, "waits"))
    (work / "go").touch()
    ending = await supervisor.wait(run_dir)
    assert (ending.exit_code, log_of(run_dir)[-3:]) == (0, ["heard 300000", "heard 200000", "closed"])


async def test_an_agent_that_closes_its_input_goes_on(supervisor: Supervisor, run_dir: Path, work: Path) -> None:
    script = (
        "import os, sys, time\nos.close(0)\nprint('deaf', flush=True)\nwhile not os.path.exists('go'): time.sleep(0.01)"
    )
    await supervisor.start(run_dir, talking(work, script, "x" * 300_000))
    await until(says(run_dir, "deaf"))
    (work / "go").touch()
    ending = await supervisor.wait(run_dir)
    assert (ending.cause, ending.exit_code) == ("exited", 0)


@pytest.mark.fault(24)
async def test_the_first_step_of_a_kill_is_to_close_the_input(
    supervisor: Supervisor, run_dir: Path, work: Path
) -> None:
    script = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + ANSWERS
    await supervisor.start(run_dir, talking(work, script, turn_end="never"))
    await until(says(run_dir, "heard first"))
    await supervisor.kill(run_dir, 60, "test")
    ending = await supervisor.wait(run_dir)
    assert (ending.cause, ending.kill_cause, ending.exit_code) == ("killed", "test", 0)
    assert log_of(run_dir) == ["heard first", "closed"]


async def test_what_a_sender_left_half_written_is_removed(supervisor: Supervisor, run_dir: Path, work: Path) -> None:
    script = "import sys; sys.stdin.readline(); print('ready', flush=True)\n" + ANSWERS
    await supervisor.start(run_dir, talking(work, script))
    await until(says(run_dir, "ready"))
    with (run_dir / "stdin").open("ab") as file:
        file.write(b'id-dead {"say": "ha')
    supervisor.send(run_dir, "id-x", line("more"))
    await supervisor.wait(run_dir)
    assert log_of(run_dir) == ["ready", "heard more", "closed"]


@pytest.mark.attack(63)
async def test_secrets_do_not_get_into_the_log(supervisor: Supervisor, run_dir: Path, work: Path) -> None:
    script = (
        "import os, sys, time\nfor part in ('key: sk-', 'secret', '!'):\n"
        "    os.write(1, part.encode())\n    time.sleep(0.02)\nos.write(2, b'sk-secret sk-sec')"
    )
    spec = python(script, work, masks=("sk-secret",))
    await supervisor.start(run_dir, spec)
    ending = await supervisor.wait(run_dir)
    log = (run_dir / "log").read_bytes()
    assert log == b"key: [masked]![masked] sk-sec"
    assert ending.log_bytes == len(log)


@pytest.mark.fault(28)
async def test_how_it_ended_is_kept_although_the_log_is_full(supervisor: Supervisor, run_dir: Path, work: Path) -> None:
    script = "print('x' * 5_000_000); print('the end')"
    await supervisor.start(run_dir, python(script, work, log_cap_bytes=1000))
    ending = await supervisor.wait(run_dir)
    tail = (run_dir / "log.tail").read_bytes()
    assert (tail[-9:], len(tail)) == (b"\nthe end\n", 256 * 1024)
    assert ending.log_dropped == 5_000_009 - 1000


async def test_many_send_at_once(supervisor: Supervisor, run_dir: Path, work: Path) -> None:
    script = ANSWERS.replace("for line", "import os, time\nwhile not os.path.exists('go'): time.sleep(0.01)\nfor line")
    await supervisor.start(run_dir, talking(work, script))
    sends = (asyncio.to_thread(supervisor.send, run_dir, f"id-m{n % 8}", line(f"m{n % 8}")) for n in range(32))
    await asyncio.gather(*sends)
    (work / "go").touch()
    await until(lambda: log_of(run_dir)[-1:] == ["closed"])
    await supervisor.wait(run_dir)
    assert sorted(log_of(run_dir)) == ["closed", "heard first", *(f"heard m{n}" for n in range(8))]
