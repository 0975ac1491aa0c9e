"""The table of what spans tell: each attribute is named once, with what it means, and docs/tracing.md is made from it.

Names are those of OpenTelemetry's semantic conventions where they have one, else they begin with `hubspoke.`. A span
tells ids, codes, states, counts and kinds. Never work items, messages, logs, repositories, paths, tokens: what people
write, or paste by mistake, does not go to a collector.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType
from typing import Final

IDS_SHOWN: Final = 20
"""So many agents, and refused commands, of one envelope are named; the count tells how many there were."""


class Attribute(StrEnum):
    """The name of an attribute."""

    ERROR_TYPE = "error.type"
    HTTP_METHOD = "http.request.method"
    HTTP_ROUTE = "http.route"
    HTTP_STATUS = "http.response.status_code"
    SYSTEM = "messaging.system"
    OPERATION = "messaging.operation.name"
    OPERATION_TYPE = "messaging.operation.type"
    DESTINATION = "messaging.destination.name"
    MESSAGE_ID = "messaging.message.id"
    COUNT = "messaging.batch.message_count"
    GEN_AI_OPERATION = "gen_ai.operation.name"
    AGENT_ID = "gen_ai.agent.id"
    AGENT_TYPE = "gen_ai.agent.name"
    INPUT_TOKENS = "gen_ai.usage.input_tokens"
    OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
    EXIT_CODE = "process.exit.code"
    AGENT_IDS = "hubspoke.agent.ids"
    ATTEMPT = "hubspoke.agent.attempt"
    STATUS = "hubspoke.agent.status"
    TASK_ID = "hubspoke.task.id"
    COMMANDS = "hubspoke.commands"
    COMMAND_ID = "hubspoke.command.id"
    PEER = "hubspoke.peer.id"


Value = str | int | tuple[str, ...]
Attributes = Mapping[Attribute, Value]
NOTHING: Final[Attributes] = MappingProxyType({})

MEANINGS: Final[Mapping[Attribute, str]] = MappingProxyType(
    {
        Attribute.ERROR_TYPE: "The stable code of what went wrong (docs/problems.md), or why the agent failed",
        Attribute.HTTP_METHOD: "The method of a request",
        Attribute.HTTP_ROUTE: "Its route with names for what differs, such as `/api/v1/agents/{id}`; never the path",
        Attribute.HTTP_STATUS: "The status of its answer",
        Attribute.SYSTEM: "`hubspoke`",
        Attribute.OPERATION: "`send` on the hub, `process` on the spoke",
        Attribute.OPERATION_TYPE: "The same",
        Attribute.DESTINATION: "The spoke that an envelope is for",
        Attribute.MESSAGE_ID: "The envelope's `jti`",
        Attribute.COUNT: "How many commands the envelope has; left out for one",
        Attribute.GEN_AI_OPERATION: "`invoke_agent`",
        Attribute.AGENT_ID: "The agent",
        Attribute.AGENT_TYPE: "`worker`, `reviewer` or `tester`",
        Attribute.INPUT_TOKENS: "Tokens that the agent's program says it read",
        Attribute.OUTPUT_TOKENS: "Tokens that it says it wrote",
        Attribute.EXIT_CODE: "With which the agent's program ended, unless a signal ended it",
        Attribute.AGENT_IDS: f"The agents that commands are about, the first {IDS_SHOWN}",
        Attribute.ATTEMPT: "Which start of the agent it is, from 1",
        Attribute.STATUS: "How the attempt ended: `completed`, `failed`, `killed`, or `queued` to be tried again",
        Attribute.TASK_ID: "The task that the agent belongs to",
        Attribute.COMMANDS: "The kinds of commands, such as `spawn`, each once",
        Attribute.COMMAND_ID: "The command that was refused",
        Attribute.PEER: "The hub that sent the envelope, or owns the agent",
    }
)


def given(attributes: Mapping[Attribute, Value | None]) -> Attributes:
    """Return the attributes that have a value."""
    return {name: value for name, value in attributes.items() if value is not None}


def of_envelope(spoke: str, operation: str, kinds: Sequence[str], agents: Iterable[str]) -> Attributes:
    """Return what both ends tell of a COMMAND envelope for `spoke`, by the kinds and the agents of its commands."""
    return given(
        {
            Attribute.SYSTEM: "hubspoke",
            Attribute.OPERATION: operation,
            Attribute.OPERATION_TYPE: operation,
            Attribute.DESTINATION: spoke,
            Attribute.COUNT: len(kinds) if len(kinds) > 1 else None,
            Attribute.COMMANDS: tuple(sorted(set(kinds))),
            Attribute.AGENT_IDS: tuple(dict.fromkeys(agent_id for agent_id in agents if agent_id))[:IDS_SHOWN] or None,
        }
    )
