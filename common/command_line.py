"""What both command lines have in common: exit codes, one-line errors, facts as JSON or for the eye, durations.

Exit codes: 0 done, 1 refused or failed, 2 usage, 3 the node cannot be reached, 130 interrupted. An error is one line
on stderr with its stable code; a traceback only ever comes from a defect.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NoReturn

from common.errors import HubspokeError, Unavailable
from common.logs import escape

EXIT_REFUSED: Final = 1
EXIT_USAGE: Final = 2
EXIT_UNREACHABLE: Final = 3
EXIT_INTERRUPTED: Final = 130

_DURATION: Final = re.compile(r"([0-9]{1,9})([smhd]?)\Z")
_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


class Unreachable(Unavailable):
    """The node does not answer at its address."""

    code = "unreachable"


def parse_duration(text: str) -> int:
    """Return the seconds of `90`, `90s`, `15m`, `24h` or `7d`; raises ValueError."""
    found = _DURATION.match(text)
    if found is None:
        raise ValueError(f"{escape(text)} is no duration; write 90s, 15m, 24h or 7d")
    return int(found[1]) * _SECONDS[found[2]]


def fail(error: HubspokeError) -> NoReturn:
    """Say what happened in one line on stderr and exit."""
    print(f"error: {error.code}: {escape(error.message)}", file=sys.stderr)  # noqa: T201  # this is the command line
    sys.exit(EXIT_UNREACHABLE if isinstance(error, Unreachable) else EXIT_REFUSED)


@contextlib.contextmanager
def reported() -> Iterator[None]:
    """Turn errors inside the block into one line and an exit code; Ctrl-C and a closed pipe are no errors."""
    try:
        yield
        sys.stdout.flush()
    except HubspokeError as error:
        fail(error)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        # Whoever read us has gone; Python must not complain about it when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_REFUSED)


def safe(value: object) -> str:
    """Return a value as one line that a terminal shows as what it is (attack row 56); nothing for None."""
    return "" if value is None else escape(str(value))


class Output:
    """Prints facts: for scripts as one JSON document, otherwise as lines and tables for people."""

    def __init__(self, *, json: bool) -> None:
        self.json = json

    def document(self, value: Any) -> None:
        """Print one JSON document."""
        import json

        print(json.dumps(value, indent=2, ensure_ascii=False, sort_keys=False))  # noqa: T201  # this is the command line

    def line(self, text: str) -> None:
        """Print a line for people."""
        print(text)  # noqa: T201  # this is the command line

    def facts(self, value: Mapping[str, Any]) -> None:
        """Print named values: the document, or `name  value` lines of what is set."""
        if self.json:
            self.document(value)
            return
        shown = {name: each for name, each in value.items() if each is not None}
        width = max((len(name) for name in shown), default=0)
        for name, each in shown.items():
            self.line(f"{name.ljust(width)}  {safe(each)}")

    def table(
        self, rows: Sequence[Mapping[str, Any]], columns: Mapping[str, Callable[[Mapping[str, Any]], object]]
    ) -> None:
        """Print rows: the document, or a table with the given columns that fits the terminal."""
        if self.json:
            self.document(rows)
            return
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold")
        for number, name in enumerate(columns):
            # The first column names the row: it must stay whole to be copied.
            table.add_column(name, overflow="fold", no_wrap=number == 0)
        for row in rows:
            table.add_row(*(Text(safe(value(row))) for value in columns.values()))
        Console(soft_wrap=not sys.stdout.isatty()).print(table)


def relative_time(then_s: float, now_s: float) -> str:
    """Return how long ago `then_s` was, such as `5 s ago` or `3 h ago`."""
    passed = int(now_s - then_s)
    for unit, seconds in (("d", 86_400), ("h", 3600), ("min", 60)):
        if passed >= 2 * seconds:
            return f"{passed // seconds} {unit} ago"
    return f"{max(passed, 0)} s ago"


def pairs(texts: Iterable[str]) -> dict[str, str]:
    """Read `KEY=VALUE` options; raises ValueError."""
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise ValueError(f"{escape(text)} is no KEY=VALUE")
        found[key] = value
    return found
