"""The commands of a COMMAND envelope, as strict models (PROTOCOL section 2.1).

Decides the shape: members, types, ranges and lengths. What breaks the shape is `malformed` and takes the whole
envelope with it. Whether a repository or a branch can be used is a question about one command, asked later
(`common.repository`, `common.branch`, the policy), and answered with `invalid` or `not_allowed` for that command
alone.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Final, Literal

from pydantic import Field, TypeAdapter, ValidationError

from common.agent_state import AgentType
from common.errors import Malformed
from common.wire import NotNull, StrictModel, TaskId, Uuid7, first_problem

MAX_COMMANDS: Final = 1000
DEFAULT_PRIORITY: Final = 5
DEFAULT_TIMEOUT_S: Final = 3600
DEFAULT_MAX_ATTEMPTS: Final = 3
DEFAULT_GRACE_S: Final = 10
MAX_LOG_BYTES: Final = 262_144
MAX_TEXT: Final = 10_000
MAX_REASON: Final = 1000

Skill = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
Reason = Annotated[str, Field(max_length=MAX_REASON)]


class Context(StrictModel):
    """What the agent is to work on; `repository` and `branch` are checked for more than shape before use."""

    repository: Annotated[str, Field(min_length=1, max_length=2048, examples=["https://git.example.org/team/app.git"])]
    branch: Annotated[str, Field(min_length=1, max_length=255, examples=["main"])]
    work_items: Annotated[list[Text], Field(min_length=1, max_length=100, examples=[["fix the login redirect"]])]
    skills: list[Skill] = Field(default_factory=list, max_length=50)


class SpawnFields(StrictModel):
    """The fields of a spawn that the wire, the hub's API and the spoke's local API have in common."""

    task_id: Annotated[TaskId, Field(examples=["T-42"])]
    agent_type: AgentType
    context: Context
    priority: Annotated[int, Field(ge=1, le=10)] = DEFAULT_PRIORITY
    timeout_s: Annotated[int, Field(ge=1, le=86_400)] = DEFAULT_TIMEOUT_S
    max_attempts: Annotated[int, Field(ge=1, le=10)] = DEFAULT_MAX_ATTEMPTS


class Spawn(SpawnFields):
    """Start an agent; the command's id is the agent's id."""

    id: Uuid7
    command: Literal["spawn"]


class _OfAgent(StrictModel):
    id: Uuid7
    agent_id: Uuid7


class StatusOf(_OfAgent):
    """Ask for the present status of an agent."""

    command: Literal["status"]


class Kill(_OfAgent):
    """Stop an agent; `grace_s` seconds lie between SIGTERM and SIGKILL."""

    command: Literal["kill"]
    grace_s: Annotated[int, Field(ge=0, le=300)] = DEFAULT_GRACE_S
    reason: Annotated[Reason | None, NotNull] = None


class _Reading(_OfAgent):
    offset: Annotated[int, Field(ge=0)] = 0
    limit: Annotated[int, Field(ge=1, le=MAX_LOG_BYTES)] = 65_536


class Logs(_Reading):
    """Read `limit` bytes of an agent's log from `offset`."""

    command: Literal["logs"]


class Diff(_Reading):
    """Read `limit` bytes of an agent's change as a git patch from `offset`."""

    command: Literal["diff"]


class Send(_OfAgent):
    """Give a running agent further input."""

    command: Literal["send"]
    text: Text


class Resume(_OfAgent):
    """Start a new attempt in the workspace of an agent that has ended."""

    command: Literal["resume"]
    text: Annotated[Text | None, NotNull] = None


class Freeze(StrictModel):
    """Refuse this peer's spawns until `thaw`, and optionally kill its agents."""

    id: Uuid7
    command: Literal["freeze"]
    kill_agents: bool = False
    reason: Annotated[Reason | None, NotNull] = None


class Thaw(StrictModel):
    """Take this peer's spawns again."""

    id: Uuid7
    command: Literal["thaw"]


Command = Spawn | StatusOf | Kill | Logs | Diff | Send | Resume | Freeze | Thaw
COMMAND_NAMES: Final = ("spawn", "status", "kill", "logs", "diff", "send", "resume", "freeze", "thaw")

_commands: Final[TypeAdapter[list[Command]]] = TypeAdapter(
    Annotated[list[Annotated[Command, Field(discriminator="command")]], Field(min_length=1, max_length=MAX_COMMANDS)]
)


def parse_commands(value: Any) -> list[Command]:
    """Read the `commands` of a payload; raises `Malformed` naming the first field that breaks the shape."""
    try:
        return _commands.validate_python(value)
    except ValidationError as error:
        raise Malformed(f"commands.{first_problem(error)}") from error


_CONTENT: Final = set(SpawnFields.model_fields)


def encode_content(fields: SpawnFields) -> bytes:
    """Return what a spawn asks for as JSON: members in the order of the model, none that has its default.

    So it stays the same when a later version adds a member.
    """
    return fields.model_dump_json(by_alias=True, exclude_defaults=True, include=_CONTENT).encode()


def encode_spawn(agent_id: str, content: bytes) -> bytes:
    """Return the JSON of a spawn command with this id and the content that `encode_content` gave."""
    return b'{"id":"%s","command":"spawn",%s' % (agent_id.encode(), content[1:])


def hash_content(content: bytes) -> str:
    """Return the SHA-256 of what `encode_content` gave, in hex."""
    return hashlib.sha256(content).hexdigest()


def resume_hash(resume: Resume) -> str:
    """Return the SHA-256 of what a resume asks for, in hex; without `text` is other content than any text."""
    return hash_content(resume.model_dump_json(by_alias=True, include={"agent_id", "text"}).encode())


def content_hash(spawn: SpawnFields) -> str:
    """Return the SHA-256 of what a spawn asks for, in hex.

    Members left out and members given with their default are the same content; the order of members is not content.
    """
    return hash_content(encode_content(spawn))
