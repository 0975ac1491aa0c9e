"""Where the branch of an agent that completed is pushed to, as `[agents.TYPE.push]` of spoke.toml says it.

Pure. Decides by the operator's own patterns, not by what peers may fetch: to read a repository and to write to it are
two things. Every branch names its agent, so nothing that anybody else made is ever pushed over. Refuses credentials in
a URL; they come from a helper of the operator's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from common.branch import check_branch
from common.errors import CommandRefused, NotAllowed
from common.repository import Repository, check_glob, match_repository, parse_repository
from spoke.policy import readable

AGENT: Final = "{agentId}"
_AN_ID: Final = "00000000-0000-7000-8000-000000000000"
# git gives a helper to a shell: no character that means something there.
_PROGRAM: Final = r"^(/[A-Za-z0-9._+-]+)+$"


@dataclass(frozen=True, slots=True)
class PushTarget:
    """One branch of one repository, and the program that knows the credentials for it, if any."""

    repository: Repository
    branch: str
    credential_helper: str | None = None


class PushConfig(BaseModel):
    """`[agents.TYPE.push]`; without `remote` it is the repository that the agent worked on.

    `repositories` are patterns of where may be pushed to, `branch` is the name there, `credential_helper` one of git's.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)

    repositories: Annotated[list[Annotated[str, readable(check_glob)]], Field(min_length=1)]
    remote: str | None = None
    branch: str = f"agents/{AGENT}"
    credential_helper: Annotated[str, Field(pattern=_PROGRAM)] | None = None

    @model_validator(mode="after")
    def _is_usable(self) -> Self:
        if AGENT not in self.branch:
            raise ValueError(f"branch must hold {AGENT}, so that no agent pushes over another's")
        try:
            check_branch(self.branch_of(_AN_ID))
            if self.remote is not None:
                self._check(parse_repository(self.remote))
        except CommandRefused as error:
            raise ValueError(error.message) from error
        return self

    def branch_of(self, agent_id: str) -> str:
        """Return the name of an agent's branch there."""
        return self.branch.replace(AGENT, agent_id)

    def target(self, agent_id: str, repository: Repository) -> PushTarget:
        """Return where the branch of an agent goes that worked on `repository`; raises `NotAllowed`."""
        remote = repository if self.remote is None else parse_repository(self.remote)
        self._check(remote)
        return PushTarget(remote, self.branch_of(agent_id), self.credential_helper)

    def _check(self, remote: Repository) -> None:
        if match_repository(self.repositories, remote) is None:
            raise NotAllowed("push.repositories has no pattern for this repository")
