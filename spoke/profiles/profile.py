"""The model of a profile: the members of its TOML file, and what each may be."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from common.agent_state import AgentType

OURS: Final = "HUBSPOKE_"
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_PLACEHOLDER: Final = re.compile(r"\{[a-z_]+\}")
PLACEHOLDERS: Final = frozenset({"{python}", "{agents}", "{session}", "{tree}", "{home}", "{prompt_file}"})


def _variable(name: str) -> str:
    if not _VARIABLE.match(name) or name.startswith(OURS):
        raise ValueError(f"{name!a} is no name of a variable that could be passed on")
    return name


def _argument(text: str) -> str:
    if "\0" in text:
        raise ValueError("an argument cannot hold NUL")
    return text


def _template(text: str) -> str:
    if unknown := set(_PLACEHOLDER.findall(text)) - PLACEHOLDERS:
        raise ValueError(f"unknown placeholder {min(unknown)}; known are {', '.join(sorted(PLACEHOLDERS))}")
    return _argument(text)


def _relative(path: str) -> str:
    if path.startswith("/") or ".." in path.split("/") or "\0" in path or "\n" in path or not path:
        raise ValueError(f"{path!a} is no path below the agent's home or tree")
    return path


Variable = Annotated[str, AfterValidator(_variable)]
Argument = Annotated[str, AfterValidator(_argument)]
Template = Annotated[str, AfterValidator(_template)]
Relative = Annotated[str, AfterValidator(_relative)]
ReasonCode = Literal["agent_error", "exit_nonzero", "turn_limit", "cost_limit"]


class Profile(BaseModel):
    """How one program is run; docs/agents.md describes each member.

    `command` is its argv; `start` or `resume` is added to it for the first attempt of a session and for a later one,
    then what `arguments` has for the agent type. `env` are names of variables passed on from the spoke, `variables`
    are set. `output` is the dialect of what it prints, and `success` whether its exit code or its own word counts.
    A tree with one of the `refused_files` is not given to it; `ignored_files` (git's patterns) in it are nobody's work.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
    about: str = ""
    install: str = ""
    command: list[Template] = []
    takes_command: bool = False
    start: list[Template] = []
    resume: list[Template] = []
    arguments: dict[AgentType, list[Template]] = {}
    protected_flags: list[str] = []
    model_flag: str | None = None
    max_turns_flag: str | None = None
    max_cost_flag: str | None = None
    prompt_via: Literal["stdin-json", "stdin", "stream-json", "file"] = "stdin-json"
    turn_end: str | None = None
    env: list[Variable] = []
    variables: dict[Variable, Argument] = {}
    masks: list[Variable] = []
    skills_dir: Relative | None = None
    refused_files: list[Relative] = []
    ignored_files: list[Relative] = []
    output: Literal["plain", "aider", "claude", "codex", "gemini", "opencode"] = "plain"
    success: Literal["exit-zero", "conclusion"] = "exit-zero"
    exit_codes: dict[str, ReasonCode] = {}

    @model_validator(mode="after")
    def _is_whole(self) -> Profile:
        if not self.command and not self.takes_command:
            raise ValueError("a profile needs a command")
        if self.success == "conclusion" and self.output == "plain":
            raise ValueError('success = "conclusion" needs an output that tells it')
        return self

    @property
    def takes_input(self) -> bool:
        """Whether a running agent can be told more."""
        return self.prompt_via == "stream-json"

    def reason_for(self, exit_code: int) -> ReasonCode | None:
        """Return the reason that an agent's exit code stands for, None for success (PROTOCOL section 2.2)."""
        return None if exit_code == 0 else self.exit_codes.get(str(exit_code), "exit_nonzero")
