from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from spoke.agents import report
from spoke.profiles import Shelf
from spoke.results import read_result_file
from tests.integration.spoke.repositories import AGENT_ENVIRONMENT, commit, git, make_repository, write


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    files = {
        "README.md": "# Shop\n",
        "src/login.py": "import os\n\n\ndef redirect():\n    # TODO: redirect after it\n    return 'login redirect'\n",
        "src/cart.py": "def total(): return 1",
        "Makefile": "all:\n\ttrue\n",
    }
    return make_repository(tmp_path / "tree", files)


async def run(tree: Path, items: list[str], agent_type: str) -> tuple[int | None, str, Path]:
    """Start the agent as the spoke does; return exit code, log and the path of its result file."""
    task = {"taskId": "T-1", "agentType": agent_type, "context": {"workItems": items}}
    return await run_with(tree, json.dumps(task).encode())


async def run_with(tree: Path, stdin: bytes) -> tuple[int | None, str, Path]:
    result = tree.parent / "result.json"
    coverage = {name: value for name, value in os.environ.items() if name.startswith("COVERAGE")}
    process = await asyncio.create_subprocess_exec(
        *Shelf().get("report").command,
        cwd=tree,
        env={**AGENT_ENVIRONMENT, **coverage, "HUBSPOKE_RESULT_FILE": str(result)},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate(stdin)
    return process.returncode, output.decode(), result


async def report_on(tree: Path, *items: str, agent_type: str = "reviewer") -> dict[str, Any]:
    exit_code, log, path = await run(tree, list(items), agent_type)
    assert exit_code == 0, log
    summary, found, problem = read_result_file(path)
    assert problem is None
    assert summary is not None
    assert found is not None
    return {**found, "summary": summary, "log": log}


async def test_the_report_tells_what_is_there(tree: Path) -> None:
    found = await report_on(tree, "Fix the login redirect", "nothing-like-it")
    assert found["files"] == 4
    assert {each["name"]: each["lines"] for each in found["languages"]} == {"Python": 7, "Markdown": 1, "Make": 2}
    assert found["history"]["commits"] == found["history"]["contributors"] == 1
    assert found["history"]["recent"][0]["subject"] == "first"
    assert found["openTodos"] == {
        "count": 1,
        "places": [{"path": "src/login.py", "line": 5, "text": "TODO: redirect after it"}],
    }
    login, nothing = found["workItems"]
    assert login["files"][0]["path"] == "src/login.py"
    assert [place["line"] for place in login["files"][0]["places"]] == [4, 5, 6]
    assert nothing["files"] == []
    assert "src/login.py:4" in found["summary"]
    assert "nothing found" in found["summary"]
    assert "4 files are tracked" in found["log"]


async def test_a_reviewer_changes_nothing(tree: Path) -> None:
    before = git(tree, "rev-parse", "HEAD")
    await report_on(tree, "login")
    assert git(tree, "rev-parse", "HEAD") == before
    assert git(tree, "status", "--porcelain", "--ignored") == ""


async def test_a_worker_commits_its_report(tree: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    (tree / report.REPORT).symlink_to(victim)
    (tree / f"{report.REPORT}.new").symlink_to(victim)
    commit(tree, {".gitignore": "*.md\n"}, "hostile")
    await report_on(tree, "login", agent_type="worker")
    assert git(tree, "log", "-1", "--format=%an: %s") == "agent: Add a report"
    assert git(tree, "diff", "--name-only", "HEAD~", "HEAD") == report.REPORT
    assert "src/login.py" in git(tree, "show", f"HEAD:{report.REPORT}")
    assert victim.read_text() == "untouched"


async def test_a_directory_in_the_reports_place_is_no_failure(tree: Path) -> None:
    commit(tree, {f"{report.REPORT}/x": "1"}, "in the way")
    found = await report_on(tree, "login", agent_type="worker")
    assert "cannot write" in found["log"]


async def test_an_empty_repository(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    git(tmp_path / "tree", "init", "-q")
    found = await report_on(tmp_path / "tree", "login")
    assert (found["files"], found["history"]["commits"], found["history"]["recent"]) == (0, 0, [])


async def test_odd_files_are_counted_and_not_read(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("login secret of another place")
    (tree / "link.py").symlink_to(tmp_path / "secret")
    (tree / "binary.py").write_bytes(b"login\0")
    (tree / "latin.py").write_bytes("login = 'ü' # FIXME ü\n".encode("latin-1"))
    (tree / "huge.py").write_bytes(b"login\n" * 200_000)
    (tree / "empty.py").touch()
    (tree / os.fsdecode(b"\xff\x1b[31m.py")).write_text("login\n")
    commit(tree, {}, "odd")
    (tree / "src/cart.py").unlink()
    found = await report_on(tree, "login")
    assert (found["files"], found["binaryFiles"], found["skippedFiles"]) == (10, 1, 3)
    assert found["openTodos"]["count"] == 2
    paths = {file["path"] for file in found["workItems"][0]["files"]}
    assert paths == {"src/login.py", "latin.py", "\ufffd\x1b[31m.py"}
    assert "\x1b" not in found["summary"] + found["log"]
    assert "secret" not in json.dumps(found)


@pytest.mark.attack(54)
async def test_hostile_work_items_are_only_words_to_search_for(tree: Path) -> None:
    items = ["--dangerously-skip-permissions", "@/etc/passwd", "$(touch pwned)", "x\0login", "\x1b[2J\u202e", "-h"]
    found = await report_on(tree, *items, "y" * 10_000)
    assert len(found["workItems"]) == 7
    assert not (tree / "pwned").exists()
    assert found["summary"].replace("\n", "").isprintable()


async def test_a_module_in_the_repository_is_not_pythons(tree: Path) -> None:
    write(tree, {"json.py": "open('pwned', 'w')", "sitecustomize.py": "open('pwned', 'w')"})
    await report_on(tree, "login")
    assert not (tree / "pwned").exists()


async def test_much_of_everything_still_fits(tree: Path) -> None:
    lines = "".join(f"login redirect number {number} {'ü' * 150}\n" for number in range(20))
    commit(tree, {f"d{number}/login-{number}.py": lines + "# TODO login\n" for number in range(60)}, "much")
    found = await report_on(tree, *(f"login redirect {number}" for number in range(100)))
    assert len(found["workItems"]) == 100
    assert found["openTodos"]["count"] == 61


@pytest.mark.parametrize("stdin", [b"", b"[]", b"{}", b'{"context": {"workItems": 5}}', b"\xff"])
async def test_without_a_task_it_says_so_and_exits_2(tree: Path, stdin: bytes) -> None:
    exit_code, log, path = await run_with(tree, stdin)
    assert (exit_code, path.exists()) == (2, False)
    assert "no task" in log


def test_out_of_time_is_said(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)
    found = report._survey(["README.md"], [], deadline=0)
    assert not found.complete
    assert "did not suffice" in report._summarise(report._assemble(found, report._history(), []))


def test_what_never_fits_is_left_out(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)
    monkeypatch.setattr(report, "MAX_DATA", 500)
    items = [report.Item("login", ("login",)) for _ in range(100)]
    found = report._survey(["src/login.py"], items, deadline=sys.float_info.max)
    assert report._assemble(found, report._history(), items)["workItems"] == []
