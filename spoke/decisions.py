"""What the audit says of a COMMAND envelope: which commands were decided how, the ids of one outcome together.

Decides also which commands start something, and so are not taken while the audit cannot be written (fault 29).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from common.commands import Command, Freeze, Spawn, Thaw
from spoke.command_result import CommandResult

HARMLESS: Final = frozenset({"status", "logs", "diff", "kill", "freeze"})
"""Commands that start nothing: they look, or they stop."""
_OF_NO_AGENT: Final = (Spawn, Freeze, Thaw)


def starts_something(commands: Sequence[Command]) -> bool:
    """Whether any of the commands starts something."""
    return any(command.command not in HARMLESS for command in commands)


def agent_of(command: Command) -> str | None:
    """Return the agent that a command is about; None for a spawn, and for what is about the connection."""
    return None if isinstance(command, _OF_NO_AGENT) else command.agent_id


def decisions(results: Sequence[CommandResult]) -> list[dict[str, Any]]:
    """Return what was decided about an envelope's commands, in order.

    `rule` is the rule of the policy that refused; `agents` are those that a command other than a spawn is about.
    """
    decided: dict[tuple[str, str, str | None], dict[str, Any]] = {}
    for result in results:
        command = result.command
        rule = _rule_of(result.detail) if result.detail else None
        key = (command.command, result.outcome, rule)
        decision = decided.get(key)
        if decision is None:
            decided[key] = decision = {"command": key[0], "outcome": key[1], **({"rule": rule} if rule else {})}
            decision["ids"] = []
        decision["ids"].append(command.id)
        if agent_id := agent_of(command):
            decision.setdefault("agents", []).append(agent_id)
    return list(decided.values())


def _rule_of(detail: str) -> str | None:
    """Return the rule that a refusal's detail begins with, such as `policy.repositories`."""
    rule = detail.split(maxsplit=1)[0].rstrip(":")
    return rule if rule.startswith(("policy.", "limits.")) else None
