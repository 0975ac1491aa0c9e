"""What a whole run came to: session, usage, conclusion, from its events in order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from common.agent_output.events import Asked, Began, Concluded, Event, Said, Spent
from common.agent_output.lines import Lines, parse_line

_MAX_TEXT: Final = 64 * 1024
_NO_WORD: Final = "the program ended without a word on how it went"


@dataclass(frozen=True, slots=True)
class Usage:
    """What was used; `cost_usd` is None where the program does not tell."""

    input_tokens: int
    output_tokens: int
    cost_usd: float | None
    turns: int

    def to_json(self) -> dict[str, Any]:
        """Return the `usage` of PROTOCOL section 4."""
        return {
            "inputTokens": self.input_tokens,
            "outputTokens": self.output_tokens,
            "costUsd": self.cost_usd,
            "turns": self.turns,
        }


@dataclass(frozen=True, slots=True)
class Conclusion:
    """The program's own word: whether it went well, what it said last, and the reason where it did not."""

    ok: bool
    text: str | None
    reason: str | None


@dataclass
class Account:
    """Takes events in order; everything in it is bounded."""

    session: str | None = None
    usage: Usage | None = None
    _concluded: Concluded | None = None
    _text: list[str] = field(default_factory=list)
    _length: int = 0

    def take(self, event: Event) -> None:
        """Take the next event."""
        match event:
            case Began(session=session):
                self.session = session or self.session
            case Asked():
                self._concluded = None
                self._forget()
            case Said(text=text, piece=piece):
                self._say(text[:_MAX_TEXT], piece=piece)
            case Spent():
                self._spend(event)
            case Concluded():
                self._concluded = event
            case _:
                pass

    def conclusion(self) -> Conclusion:
        """Return what the program said of itself; nothing said is nothing achieved."""
        said = "".join(self._text)[-_MAX_TEXT:].strip() or None
        if self._concluded is None:
            return Conclusion(ok=False, text=said or _NO_WORD, reason="agent_error")
        text = self._concluded.text or said
        if self._concluded.ok:
            return Conclusion(ok=True, text=text, reason=None)
        return Conclusion(ok=False, text=text, reason=self._concluded.reason or "agent_error")

    def _say(self, text: str, *, piece: bool) -> None:
        if not piece:
            self._forget()
        self._text.append(text)
        self._length += len(text)
        if (
            self._length > 2 * _MAX_TEXT
        ):  # not at each piece: of many small ones each would be copied thousands of times
            self._text = ["".join(self._text)[-_MAX_TEXT:]]
            self._length = _MAX_TEXT

    def _forget(self) -> None:
        self._text = []
        self._length = 0

    def _spend(self, spent: Spent) -> None:
        before = Usage(0, 0, None, 0) if spent.total or self.usage is None else self.usage
        costs = [cost for cost in (before.cost_usd, spent.cost_usd) if cost is not None]
        self.usage = Usage(
            before.input_tokens + spent.input_tokens,
            before.output_tokens + spent.output_tokens,
            sum(costs) if costs else None,
            before.turns + spent.turns,
        )


def account_for(dialect: str, chunks: Iterable[bytes]) -> Account:
    """Return the account of a whole log in a dialect, read in chunks."""
    account, lines = Account(), Lines()
    for chunk in chunks:
        for line in lines.feed(chunk):
            _take_line(account, dialect, line)
    for line in lines.flush():
        _take_line(account, dialect, line)
    return account


def _take_line(account: Account, dialect: str, line: bytes) -> None:
    for event in parse_line(dialect, line):
        account.take(event)
