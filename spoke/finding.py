"""One thing that `spoke doctor` looked at, and how it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from common.logs import escape

State = Literal["ok", "warn", "bad"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check: what was seen, and how to mend it unless it is `ok`."""

    check: str
    state: State
    detail: str
    mend: str | None = None

    def to_view(self) -> dict[str, Any]:
        """Return the JSON object."""
        return asdict(self)

    def to_text(self) -> str:
        """Return one line for people."""
        mend = "" if self.mend is None else f" -> {self.mend}"
        return f"{self.state:<4}  {self.check:<16}  {escape(self.detail + mend)}"


def worst(findings: Sequence[Finding]) -> State:
    """Return the worst state among the findings."""
    states: Iterator[State] = (state for state in ("bad", "warn") if any(each.state == state for each in findings))
    return next(states, "ok")
