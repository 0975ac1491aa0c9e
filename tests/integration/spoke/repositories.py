"""Real git repositories for tests, and an agent that works in one like any person at a shell."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

AGENT_ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "HOME": "/nonexistent",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_AUTHOR_NAME": "agent",
    "GIT_AUTHOR_EMAIL": "agent@localhost",
    "GIT_COMMITTER_NAME": "agent",
    "GIT_COMMITTER_EMAIL": "agent@localhost",
}


def git(directory: Path, *arguments: str, stdin: str | None = None) -> str:
    """Run git as a person would, in `directory`; the test fails when git does."""
    done = subprocess.run(
        ["git", *arguments],
        cwd=directory,
        env=AGENT_ENVIRONMENT,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        errors="surrogateescape",
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def make_repository(path: Path, files: dict[str, str] | None = None, branch: str = "main") -> Path:
    """Make a repository with one commit."""
    path.mkdir(parents=True)
    git(path, "init", "-q", "-b", branch)
    commit(path, files or {"README.md": "hello\n", "src/app.py": "print(1)\n"}, "first")
    return path


def commit(path: Path, files: dict[str, str], subject: str) -> str:
    """Write files, commit them, and return the sha."""
    write(path, files)
    git(path, "add", "-A")
    git(path, "commit", "-q", "--allow-empty", "-m", subject)
    return git(path, "rev-parse", "HEAD")


def write(path: Path, files: dict[str, str]) -> None:
    """Write files below `path`."""
    for name, text in files.items():
        target = path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
