"""Where profiles are found, and what comes of one with the operator's configuration of an agent type.

The operator's own lie in `DIR/profiles/NAME.toml`, may stand on another (`extends = "claude"`) and beat a shipped one
of their name. Refuses what cannot work before anything is started: LocalError `config`.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from common.agent_state import AgentType
from common.errors import LocalError
from common.wire import first_problem
from spoke.profiles.configuration import AgentConfig
from spoke.profiles.profile import Profile

_DEEPEST: Final = 8
_SUFFIX: Final = ".toml"
_PLACES: Final = {"{python}": sys.executable, "{agents}": str(Path(__file__).parent.parent / "agents")}


def _refuse(text: str) -> LocalError:
    return LocalError(text, code="config")


def fill_in(templates: list[str], places: Mapping[str, str]) -> list[str]:
    """Return the arguments with the placeholders that `places` has filled in."""
    filled = []
    for template in templates:
        text = template
        for name, place in places.items():
            text = text.replace(name, place)
        filled.append(text)
    return filled


class Shelf:
    """The shipped profiles and those of one spoke's directory."""

    def __init__(self, directory: Path | None = None) -> None:
        self._own = None if directory is None else directory / "profiles"

    def names(self) -> tuple[str, ...]:
        """Return the names of all profiles."""
        shipped = [entry.name for entry in resources.files("spoke.profiles").iterdir()]
        own = [] if self._own is None or not self._own.is_dir() else [path.name for path in self._own.iterdir()]
        return tuple(sorted({name.removesuffix(_SUFFIX) for name in (*shipped, *own) if name.endswith(_SUFFIX)}))

    def get(self, name: str) -> Profile:
        """Return a profile as it comes; raises LocalError `config`."""
        try:
            profile = Profile.model_validate({**self._members(name, 0), "name": name})
        except ValidationError as error:
            raise _refuse(f"profile {name}: {first_problem(error)}") from error
        return profile.model_copy(
            update={
                "command": fill_in(profile.command, _PLACES),
                "start": fill_in(profile.start, _PLACES),
                "resume": fill_in(profile.resume, _PLACES),
            }
        )

    def resolve(self, config: AgentConfig, agent_type: AgentType) -> Profile:
        """Return the profile with what is configured for an agent type; raises LocalError `config`."""
        profile = self.get(config.profile)
        if profile.takes_command and config.command is None:
            raise _refuse(
                f'agents.{agent_type}: profile "{profile.name}" needs a command, such as '
                'command = ["python3", "/srv/agent.py"]'
            )
        if config.command is not None and not profile.takes_command:
            raise _refuse(f'agents.{agent_type}: profile "{profile.name}" takes no command; use arguments')
        arguments = [
            *profile.arguments.get(agent_type, []),
            *_flag(profile, agent_type, "model", profile.model_flag, config.model),
            *_flag(profile, agent_type, "max_turns", profile.max_turns_flag, config.max_turns),
            *_flag(profile, agent_type, "max_cost_usd", profile.max_cost_flag, config.max_cost_usd),
            *_unprotected(profile, agent_type, config.arguments),
        ]
        return profile.model_copy(
            update={
                "command": config.command or profile.command,
                "arguments": {agent_type: arguments},
                "env": [*profile.env, *config.env],
                "masks": [*profile.masks, *config.masks],
            }
        )

    def _members(self, name: str, depth: int) -> dict[str, Any]:
        if depth > _DEEPEST:
            raise _refuse(f"profile {name} extends itself; let extends end at a profile without it")
        own = self._read(name)
        base = own.pop("extends", None)
        if base is None:
            return own
        if not isinstance(base, str):
            raise _refuse(f"profile {name}: extends takes the name of a profile")
        # A profile of the operator's may have the name of the one that it stands on.
        below = self._shipped(base) if base == name else self._members(base, depth + 1)
        below.pop("extends", None)
        return {**below, **own}

    def _read(self, name: str) -> dict[str, Any]:
        if name not in self.names():
            raise _refuse(f"unknown profile {name!a}; known are {', '.join(self.names())}")
        own = None if self._own is None else self._own / f"{name}{_SUFFIX}"
        if own is None or not own.is_file():
            return self._shipped(name)
        try:
            return tomllib.loads(own.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise _refuse(f"{own} cannot be read: {error}") from error

    def _shipped(self, name: str) -> dict[str, Any]:
        file = resources.files("spoke.profiles") / f"{name}{_SUFFIX}"
        if not file.is_file():
            raise _refuse(f"there is no shipped profile {name!a} to extend")
        return tomllib.loads(file.read_text("utf-8"))


def _flag(profile: Profile, agent_type: str, member: str, flag: str | None, value: object) -> list[str]:
    if value is None:
        return []
    if flag is None:
        raise _refuse(f'agents.{agent_type}: profile "{profile.name}" has no {member}; leave it out')
    return [f"{flag}={value}"]


def _unprotected(profile: Profile, agent_type: str, arguments: list[str]) -> list[str]:
    for argument in arguments:
        if argument.split("=")[0] in profile.protected_flags:
            raise _refuse(
                f'agents.{agent_type}: {argument} is set by profile "{profile.name}", which could not be read without; '
                "write a profile of your own to change it"
            )
    return arguments


def program_of(profile: Profile) -> str | None:
    """Return what the profile executes, None when that is for the operator to say."""
    return profile.command[0] if profile.command else None
