"""How agents of one type are confined, as spoke.toml says it: `[agents.TYPE]` and `[agents.TYPE.limits]`.

What is left out is not limited, and without `sandbox` there is none. `memory_mib` and `processes` are for all of an
agent's processes together, the kernel's other limits for each one.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from spoke.supervision.run_dir import Limits

_MIB: Final = 1024 * 1024
_Count = Annotated[int, Field(ge=1, le=2**40)]


class AgentLimits(BaseModel):
    """Limits with their units: MiB, seconds, numbers.

    `address_space_mib` is RLIMIT_AS, which many runtimes cannot live with: they reserve far more than they use.
    `workspace_mib` is all of an agent's workspace, history included. `silence_s` is the longest time without output,
    `log_mib` beats the one of `[limits]`.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    memory_mib: _Count | None = None
    address_space_mib: _Count | None = None
    processes: _Count | None = None
    cpu_s: _Count | None = None
    open_files: _Count | None = None
    file_mib: _Count | None = None
    workspace_mib: _Count | None = None
    silence_s: _Count | None = None
    log_mib: _Count | None = None

    def to_supervision(self) -> Limits:
        """Return what the keeper is to enforce."""
        return Limits(
            nofile=self.open_files,
            fsize_bytes=_bytes(self.file_mib),
            cpu_s=self.cpu_s,
            as_bytes=_bytes(self.address_space_mib),
            memory_bytes=_bytes(self.memory_mib),
            tasks=self.processes,
        )


def _bytes(mib: int | None) -> int | None:
    return None if mib is None else mib * _MIB


def _absolute(text: str) -> str:
    if not PurePath(text).is_absolute() or "\0" in text or ".." in PurePath(text).parts:
        raise ValueError(f"{text!a} is no absolute path")
    return text


ShownPath = Annotated[str, AfterValidator(_absolute)]


class SandboxConfig(BaseModel):
    """The members of `[agents.TYPE]` about the sandbox; listed paths are shown to the agent where they are."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    sandbox: Literal["none", "bwrap"] = "none"
    network: bool = False
    read_only: list[ShownPath] = []
    writable: list[ShownPath] = []
