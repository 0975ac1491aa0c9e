"""What the audit says of a COMMAND envelope: which commands were decided how, the ids of one outcome together.

Decides also which commands start something, and so are not taken while the audit cannot be written (fault 29).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from common.commands import Command

HARMLESS: Final = frozenset({"status", "logs", "diff", "kill", "freeze"})
"""Commands that start nothing: they look, or they stop."""


def starts_something(commands: Sequence[Command]) -> bool:
    """Whether any of the commands starts something."""
    return any(command.command not in HARMLESS for command in commands)


def decisions(commands: Sequence[Command], results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the decisions about an envelope's commands from their results (PROTOCOL section 2.2), in order.

    `rule` is the rule of the policy that refused; `agents` are those that a command other than a spawn is about.
    """
    decided: dict[tuple[str, str, str | None], dict[str, Any]] = {}
    for command, result in zip(commands, results, strict=True):
        error = result.get("error")
        outcome = "accepted" if error is None else error["code"]
        rule = _rule_of(error)
        decision = decided.setdefault(
            (command.command, outcome, rule),
            {"command": command.command, "outcome": outcome, **({"rule": rule} if rule else {}), "ids": []},
        )
        decision["ids"].append(command.id)
        if agent_id := getattr(command, "agent_id", None):
            decision.setdefault("agents", []).append(agent_id)
    return list(decided.values())


def _rule_of(error: Mapping[str, Any] | None) -> str | None:
    """Return the rule that a refusal's detail begins with, such as `policy.repositories`."""
    rule = str(error["detail"]).split(maxsplit=1)[0].rstrip(":") if error and error["detail"] else ""
    return rule if rule.startswith(("policy.", "limits.")) else None
