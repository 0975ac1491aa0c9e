"""Has agents run one after the other, of which the second tries to read the memory of the keeper of both.

Run by `test_keeper_reuse.py` without root's capabilities; prints how each of them ended.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from spoke.supervision.run_dir import KEEPER, decode_keeper
from spoke.supervision.supervisor import Supervisor

from .agents import program

_PEEP = "import os, sys; open(f'/proc/{sys.argv[1] or os.getppid()}/mem', 'rb')"


async def main(place: Path) -> None:
    """Print exit codes: of one that looks at its own memory, and of one that looks at its keeper's."""
    async with Supervisor() as supervisor:
        keepers = set()
        for name, whose in (("own", "self"), ("keeper's", "")):
            run_dir = place / name
            run_dir.mkdir()
            await supervisor.start(run_dir, program((sys.executable, "-I", "-S", "-c", _PEEP, whose), place))
            ending = await supervisor.wait(run_dir)
            keeper = decode_keeper((run_dir / KEEPER).read_bytes())
            assert keeper is not None
            keepers.add(keeper.pid)
            said = (run_dir / "log").read_text().strip().rpartition("\n")[2].partition(":")[0]
            sys.stdout.write(f"{name} {ending.exit_code} {said}\n")
            await asyncio.sleep(0.5)  # until it waits for the next
        sys.stdout.write(f"keepers {len(keepers)}\n")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
