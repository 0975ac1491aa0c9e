"""The prompt of an agent: a template per agent type, filled with its task in one pass.

Templates are Markdown with `$name`; the operator's in `DIR/prompts/TYPE.md` beat the shipped ones. An agent that was
resumed gets `resume.md`, behind its task where it has no session to go on with. What a hub sends is
put in as data and never read as a template, no work item can end the place that it stands in, and none is the first
thing that a program reads. Refuses a template with an unknown name, or that begins with one: LocalError `config`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import Final

from common.agent_state import AgentType
from common.errors import LocalError
from spoke.profiles.assignment import Assignment

NAMES: Final = (
    "agentId",
    "agentType",
    "askedBranch",
    "base",
    "branch",
    "repository",
    "resultFile",
    "skills",
    "taskId",
    "workItems",
)
_RESUME: Final = "resume"
_GO_ON: Final = "Go on where you left off, and finish the task."
_END: Final = re.compile(r"</(?=work-item|message)", re.IGNORECASE)


class Prompts:
    """The templates of one spoke's directory."""

    def __init__(self, directory: Path | None = None) -> None:
        self._own = None if directory is None else directory / "prompts"

    def check(self, agent_type: AgentType) -> None:
        """Raise LocalError `config` for templates that cannot be used."""
        self.template(agent_type)
        self.template(_RESUME)

    def template(self, name: str) -> Template:
        """Return the template of an agent type, or `resume`; raises LocalError `config`."""
        own = None if self._own is None else self._own / f"{name}.md"
        if own is None or not own.exists():
            return Template((resources.files("spoke.prompts") / f"{name}.md").read_text("utf-8"))
        try:
            template = Template(own.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise LocalError(f"{own} cannot be read: {error}", code="config") from error
        names = (*NAMES, "message") if name == _RESUME else NAMES
        unknown = set(template.get_identifiers()) - set(names)
        if unknown or not template.is_valid():
            what = f"${min(unknown)} is no name of ours" if unknown else "a $ stands alone; write $$"
            raise LocalError(f"{own}: {what}; known are {', '.join(f'${name}' for name in names)}", code="config")
        if re.match(r"\s*\$(?!\$)", template.template):
            # Programs take a message that begins with / or ! for a command of their own: Aider would run it.
            raise LocalError(f"{own} begins with a name; let it begin with a word of yours", code="config")
        return template

    def render(self, agent_type: AgentType, assignment: Assignment, *, goes_on: bool = False) -> str:
        """Return the prompt of one attempt; one that `goes_on` knows its task. Raises LocalError `config`."""
        names = [*([] if goes_on else [agent_type]), *([_RESUME] if assignment.is_resumed else [])]
        return "\n".join(self._fill(self.template(name), assignment) for name in names)

    @staticmethod
    def _fill(template: Template, assignment: Assignment) -> str:
        context = assignment.context
        return template.substitute(
            agentId=assignment.agent_id,
            agentType=assignment.agent_type,
            askedBranch=context.branch,
            base=assignment.base,
            branch=assignment.branch,
            message=_END.sub("<|", assignment.message or _GO_ON),
            repository=context.repository,
            resultFile=str(assignment.result_file),
            skills=", ".join(context.skills) or "none",
            taskId=assignment.task_id,
            workItems=_items(context.work_items),
        )


def _items(items: Sequence[str]) -> str:
    return "\n".join(
        f'<work-item number="{number}">\n{_END.sub("<|", item)}\n</work-item>' for number, item in enumerate(items, 1)
    )
