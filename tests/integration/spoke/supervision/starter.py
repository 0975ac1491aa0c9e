"""A spoke to be killed: starts one agent and stays. Says "starting" and "started" on its standard output.

Arguments: the run directory, a working directory, the timeout in seconds, a shell script.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

from spoke.supervision.supervisor import Supervisor

from .agents import shell


async def main() -> None:
    run_dir, work, timeout_s, script = sys.argv[1:]
    async with Supervisor(nursery_env=json.loads(os.environ["NURSERY_ENV"])) as supervisor:
        os.write(1, b"starting\n")
        await supervisor.start(Path(run_dir), shell(script, Path(work), timeout_s=float(timeout_s)))
        os.write(1, b"started\n")
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
