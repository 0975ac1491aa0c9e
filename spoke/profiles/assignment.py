"""One attempt of one agent, and what it gets to see: a listed environment, and the task as JSON.

Nothing of the spoke's own environment gets through unless it is named (attack row 53).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from common.commands import Context
from spoke.profiles.profile import OURS, Profile

_DEFAULT_PATH: Final = "/usr/local/bin:/usr/bin:/bin"


@dataclass(frozen=True, slots=True)
class Assignment:
    """One attempt of one agent: what it is to do and where its things lie.

    `branch` is the branch checked out for it, begun at commit `base`; the branch that was asked for is in `context`.
    `message` is what it was resumed with, `traceparent` the span that it may continue, if anything.
    """

    agent_id: str
    task_id: str
    agent_type: str
    attempt: int
    timeout_s: int
    context: Context
    branch: str
    base: str
    home: Path
    temporary: Path
    task_file: Path
    result_file: Path
    is_resumed: bool = False
    message: str | None = None
    traceparent: str | None = None


def agent_environment(profile: Profile, spoke_environment: Mapping[str, str], assignment: Assignment) -> dict[str, str]:
    """Return the complete environment of an agent: our own variables, and of the spoke's those that are listed.

    A listed name beats one of our defaults and of the profile's `variables`, so that an operator can pass on `HOME`
    (attack row 53).
    """
    identity = {"NAME": f"hubspoke {assignment.agent_type}", "EMAIL": f"{assignment.agent_id}@hubspoke.invalid"}
    defaults = {
        "PATH": spoke_environment.get("PATH", _DEFAULT_PATH),
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "HOME": str(assignment.home),
        "TMPDIR": str(assignment.temporary),
        "GIT_TERMINAL_PROMPT": "0",
        **{f"GIT_{role}_{part}": value for role in ("AUTHOR", "COMMITTER") for part, value in identity.items()},
    }
    listed = {name: spoke_environment[name] for name in profile.env if name in spoke_environment}
    ours = {
        f"{OURS}AGENT_ID": assignment.agent_id,
        f"{OURS}AGENT_TYPE": assignment.agent_type,
        f"{OURS}TASK_ID": assignment.task_id,
        f"{OURS}BRANCH": assignment.branch,
        f"{OURS}TASK_FILE": str(assignment.task_file),
        f"{OURS}RESULT_FILE": str(assignment.result_file),
    }
    if assignment.traceparent is not None:
        ours["TRACEPARENT"] = assignment.traceparent
    return {**defaults, **profile.variables, **listed, **ours}


def task_document(assignment: Assignment) -> bytes:
    """Return the task as JSON, for stdin and `$HUBSPOKE_TASK_FILE`: the only way a task's text reaches an agent."""
    document = {
        "agentId": assignment.agent_id,
        "taskId": assignment.task_id,
        "agentType": assignment.agent_type,
        "attempt": assignment.attempt,
        "timeoutS": assignment.timeout_s,
        "context": assignment.context.model_dump(by_alias=True),
        "workspace": {"branch": assignment.branch, "base": assignment.base},
        "resultFile": str(assignment.result_file),
    }
    if assignment.is_resumed:
        document["resume"] = {"text": assignment.message}
    return json.dumps(document, ensure_ascii=False, indent=1).encode("utf-8") + b"\n"
