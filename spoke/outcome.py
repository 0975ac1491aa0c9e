"""What an ended run means: from how the processes ended and what the profile calls success, to status and reason.

Pure, and a table: the one place that decides `completed` or `failed` (PROTOCOL section 2.2).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from common.agent_output import Conclusion, Usage
from spoke import workspace_watch
from spoke.profiles import Profile
from spoke.supervision.run_dir import Ending, encode_receipt
from spoke.workspace import Changes


@dataclass(frozen=True, slots=True)
class Verdict:
    """A terminal status with its reason; `reason` is None for `completed` only."""

    status: str
    reason: str | None


def judge(ending: Ending, profile: Profile, said: Conclusion | None = None, *, readable: bool) -> Verdict:
    """Return what the ending of a run means.

    `said` is the program's own word where its output tells it, `readable` whether its workspace still told what it did.
    """
    match ending.cause:
        case "killed":
            too_large = Verdict("failed", "workspace_failed")
            return too_large if _is_too_large(ending) else Verdict("killed", ending.kill_cause)
        case "timeout" | "silence":
            return Verdict("failed", "timeout")
        case "oom":
            return Verdict("failed", "oom")
        case "processes":
            return Verdict("failed", "agent_error")
        case "spawn_failed":
            return Verdict("failed", "spawn_failed")
        case "exited" if ending.signal == "SIGXCPU":
            return Verdict("failed", "timeout")
        case "exited":
            return _judge_exit(ending.exit_code, profile, said, readable=readable)
        case _:
            return Verdict("failed", "lost")


def _is_too_large(ending: Ending) -> bool:
    return (ending.kill_cause or "").startswith(f"{workspace_watch.CAUSE}:")


def _judge_exit(exit_code: int | None, profile: Profile, said: Conclusion | None, *, readable: bool) -> Verdict:
    # No exit code: a signal from outside ended it, and what it had done so far is no result.
    reason: str | None = "exit_nonzero" if exit_code is None else profile.reason_for(exit_code)
    if profile.success == "conclusion" and exit_code is not None and said is not None and not said.ok:
        # Its word tells more than the exit code, unless that is one of those which the profile knows.
        known = profile.exit_codes.get(str(exit_code))
        reason = said.reason if known is None or said.reason != "agent_error" else known
    if reason is not None:
        return Verdict("failed", reason)
    return Verdict("completed", None) if readable else Verdict("failed", "workspace_failed")


def result_of(
    ending: Ending,
    changes: Changes | None,
    summary: str | None,
    written: Mapping[str, Any] | None,
    usage: Usage | None = None,
) -> dict[str, Any]:
    """Return the `result` of PROTOCOL section 4; without `changes` (no workspace to read) its git members are empty."""
    return {
        "summary": summary,
        "data": written,
        "commits": [] if changes is None else [asdict(commit) for commit in changes.commits],
        "branch": None if changes is None else changes.branch,
        "diffStat": {"files": 0, "insertions": 0, "deletions": 0} if changes is None else asdict(changes.diff_stat),
        "usage": None if usage is None else usage.to_json(),
        "preservedRef": None if changes is None else changes.preserved_ref,
        "logBytes": ending.log_bytes,
    }


def final_fields(ending: Ending, reason: str | None, result: Mapping[str, Any]) -> dict[str, str | int]:
    """Return the record's fields for a terminal state."""
    fields: dict[str, str | int | None] = {
        "reason": reason,
        "exit_code": ending.exit_code,
        "signal": ending.signal,
        "detail": ending.kill_cause if _is_too_large(ending) else ending.detail,
        "receipt": None if ending.receipt is None else json.dumps(encode_receipt(ending.receipt)),
        "result": json.dumps(result),
    }
    return {name: value for name, value in fields.items() if value is not None}
