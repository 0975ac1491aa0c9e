"""`[agents.TYPE]` of spoke.toml: which profile runs this kind of agent, what is added to it, and how it is confined."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from spoke.confinement import AgentLimits, SandboxConfig
from spoke.profiles.profile import Argument, Variable
from spoke.push import PushConfig


class AgentConfig(SandboxConfig):
    """`arguments` are added to the profile's own, `env` to the variables passed on, `masks` to what a log never shows.

    `max_turns` and `max_cost_usd` end an agent with a reason of their own, where its program can count them. Unless it
    `may_change` its workspace a change is an error; reviewers may not, all others may. With `push`, what it committed
    goes there.
    """

    profile: str = "report"
    command: Annotated[list[Argument], Field(min_length=1)] | None = None
    arguments: list[Argument] = Field(default_factory=list)
    model: Annotated[Argument, Field(min_length=1)] | None = None
    max_turns: Annotated[int, Field(ge=1)] | None = None
    max_cost_usd: Annotated[float, Field(gt=0, strict=False)] | None = None
    env: list[Variable] = Field(default_factory=list)
    masks: list[Variable] = Field(default_factory=list)
    may_change: bool | None = None
    limits: AgentLimits = AgentLimits()
    push: PushConfig | None = None
