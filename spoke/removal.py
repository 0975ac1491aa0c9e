"""Deletes a directory whatever an agent has made of it: never through a link, at any depth, unreadable or not."""

from __future__ import annotations

import asyncio
from pathlib import Path


async def delete_tree(path: Path) -> None:
    """Delete `path` and everything below it, or nothing when it is not there; raises OSError when something remains.

    By rm(1) and not by shutil: that one recurses once per level, and an agent may leave thousands of levels.
    """
    if not _is_there(path):
        return  # most often so, before something is made in its place: not worth a process
    if await _succeeds("rm", "-rf", "--", path):
        return
    # Directories without the owner's permissions cannot be emptied.
    await _succeeds("chmod", "-R", "u+rwX", "--", path)
    if not await _succeeds("rm", "-rf", "--", path):
        raise OSError(0, f"cannot delete all of {path}")


def _is_there(path: Path) -> bool:
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True


async def _succeeds(program: str, *arguments: str | Path) -> bool:
    nothing = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(
        program, *arguments, stdin=nothing, stdout=nothing, stderr=nothing, cwd="/"
    )
    try:
        return await process.wait() == 0
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise
