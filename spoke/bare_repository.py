"""Writes bare repositories and their worktrees by hand: a few small files are quicker than a process.

Nothing but these files is in there, whatever git was built or configured with.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

_CONFIG: Final = "[core]\n\trepositoryformatversion = 0\n\tbare = true\n"


def lay_out(path: Path, head: str, *, borrows_from: Path | None = None, config: str = "") -> None:
    """Make a repository whose HEAD file says `head`, with SHA-1 names; raises OSError.

    `borrows_from` is another's object store, `config` is added to what every bare repository needs.
    """
    (path / "refs").mkdir(parents=True, mode=0o700)
    (path / "objects").mkdir()
    write_file(path / "HEAD", f"{head}\n")
    write_file(path / "config", _CONFIG + config)
    if borrows_from is not None:
        write_file(path / "objects" / "info" / "alternates", f"{borrows_from}\n")


def lay_out_worktree(repository: Path, tree: Path, head: str) -> None:
    """Make `tree` a worktree of a repository, without its files yet (gitrepository-layout(5)); raises OSError."""
    about = repository / "worktrees" / tree.name
    tree.mkdir()
    write_file(about / "HEAD", f"{head}\n")
    write_file(about / "commondir", "../..\n")
    write_file(about / "gitdir", f"{tree / '.git'}\n")
    write_file(tree / ".git", f"gitdir: {about}\n")


def write_ref(path: Path, ref: str, sha: str) -> None:
    """Let `ref` of the repository at `path` name an object, whether it is there or not; raises OSError."""
    write_file(path / ref, f"{sha}\n")


def write_file(path: Path, text: str) -> None:
    """Write a file of a repository, and its directories; raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
