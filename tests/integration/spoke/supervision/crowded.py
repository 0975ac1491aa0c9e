"""Keeps an agent where there is no room for one more process: of an ordinary user, as no limit binds root.

Run by `test_execution.py` with a run directory, a number of files to open, or none, and the name of a file for which
there is no room on the disk, or none; prints what became of it.
"""

from __future__ import annotations

import errno
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spoke.supervision import adoption, linux
from spoke.supervision.keeper import KeeperFds, keep, prepare
from spoke.supervision.run_dir import LAUNCH, Limits, encode_launch

from .agents import program

_SOMEBODY = 61_834
"""A user who has no other process."""


def _open_but(unwritten: str) -> Callable[..., int]:
    really = os.open

    def open_file(path: str, flags: int, *rest: Any, **where: Any) -> int:
        if unwritten and path == unwritten and flags & os.O_CREAT:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return really(path, flags, *rest, **where)

    return open_file


def main(run_dir: Path, nofile: int | None, unwritten: str) -> None:
    """Print what the keeper tells its starter, how it ends, and what is left."""
    run_dir.mkdir(mode=0o700)
    spec = program(("sh", "-c", "echo started"), Path("/"), limits=Limits(nofile=nofile))
    (run_dir / LAUNCH).write_bytes(encode_launch(spec, "token"))
    with adoption.opened(run_dir) as run_fd, open(os.devnull) as control:  # noqa: PTH123 - a device
        lock_fd = adoption.take_lock(run_fd)
        assert lock_fd is not None
        status_fd, keeper_status_fd = os.pipe()
        if os.getuid() == 0:
            os.chown(run_dir, _SOMEBODY, _SOMEBODY)
            for each in run_dir.iterdir():
                os.chown(each, _SOMEBODY, _SOMEBODY)
            os.setgroups([])
            os.setresgid(*[_SOMEBODY] * 3)
            os.setresuid(*[_SOMEBODY] * 3)
        out = os.dup(1)
        prepare()
        os.dup2(out, 2)
        resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
        os.open = _open_but(unwritten)  # a disk cannot be filled up by anybody
        kept = keep(KeeperFds(run_fd, lock_fd, control.fileno(), keeper_status_fd, os.dup(status_fd)), run_fd)
        said = os.read(status_fd, 4096).decode()
        ending = adoption.read_ending(run_fd)
        assert ending is not None
        sys.stdout.write(f"{said}\n{kept.name}\n{linux.own_children()}\n{ending.cause}: {ending.detail}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if sys.argv[2] else None, sys.argv[3])
