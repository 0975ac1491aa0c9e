"""What an agent is to do, as a program says it to the client."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Work:
    """Work items in a branch of a repository; `task_id` is your name for it, the agent's id without one.

    `priority` 1 is first and 10 last; `timeout_s` is for one attempt; `max_attempts` counts starts after faults of the
    infrastructure. What is None is the protocol's default.
    """

    repository: str
    work_items: Sequence[str]
    branch: str = "main"
    skills: Sequence[str] = ()
    agent_type: Literal["worker", "reviewer", "tester"] = "worker"
    task_id: str | None = None
    priority: int | None = None
    timeout_s: int | None = None
    max_attempts: int | None = None

    def to_request(self, own_id: str) -> dict[str, Any]:
        """Return the members of a request of the API; `own_id` names the task when nothing else does."""
        context = {
            "repository": self.repository,
            "branch": self.branch,
            "workItems": list(self.work_items),
            "skills": list(self.skills),
        }
        return {
            "taskId": self.task_id or own_id,
            "agentType": self.agent_type,
            "context": context,
            **given(priority=self.priority, timeoutS=self.timeout_s, maxAttempts=self.max_attempts),
        }


def given(**members: Any) -> dict[str, Any]:
    """Return those members that are not None."""
    return {name: value for name, value in members.items() if value is not None}
