"""From the end of a run to its verdict and result: what the processes did, what the program said, what it changed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from common.agent_output import Account, account_for
from common.agent_state import AgentType
from spoke.launching import Launcher
from spoke.outcome import Verdict, judge, result_of
from spoke.profiles import Profile
from spoke.results import cut_summary, read_result_file
from spoke.runs import Run
from spoke.supervision.run_dir import Ending
from spoke.workspace import Changes

_SESSION: Final = "sessionId"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an ended agent came to; `problems` are lines for whoever looks into it."""

    verdict: Verdict
    result: dict[str, Any]
    problems: tuple[str, ...]


def conclude(run: Run, ending: Ending, launcher: Launcher, agent_type: AgentType, changes: Changes | None) -> Outcome:
    """Return what a run came to; reads its output and its result file, so it blocks."""
    profile = launcher.profile(agent_type)
    account = _account(run, profile)
    said = None if account is None else account.conclusion()
    verdict = judge(ending, profile, said, readable=changes is not None)
    summary, data, problem = read_result_file(run.result_file)
    if account is not None and said is not None:
        summary = summary if summary is not None or said.text is None else cut_summary(said.text)
        data = {_SESSION: account.session, **(data or {})} if account.session else data
    result = result_of(ending, changes, summary, data, None if account is None else account.usage)
    problems = [problem, None if changes is None else changes.problem]
    if verdict.status == "completed" and not launcher.may_change(agent_type) and changes:
        verdict = Verdict("failed", "agent_error")
        problems.insert(0, f"a {agent_type} may not change anything here, and this one did")
    return Outcome(verdict, result, tuple(_lines(problems)))


def _account(run: Run, profile: Profile) -> Account | None:
    if profile.output == "plain":
        return None
    try:
        return account_for(profile.output, run.output())
    except OSError:  # something else lies in the place of the log: nothing was said
        return Account()


def _lines(problems: Iterable[str | None]) -> Iterable[str]:
    return (problem for problem in problems if problem)
