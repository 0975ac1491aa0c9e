"""What both command lines have in common: exit codes, one-line errors, facts as JSON or for the eye, durations.

Exit codes: 0 done, 1 refused or failed, 2 usage, 3 the node cannot be reached, 130 interrupted. An error is one line
on stderr with its stable code; a traceback only ever comes from a defect. JSON is ASCII, and what people read is
escaped: nothing that a peer named reaches the terminal as a control sequence (attack row 56).
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from common.errors import HubspokeError, Unavailable
from common.logs import escape

if TYPE_CHECKING:
    import click

EXIT_REFUSED: Final = 1
EXIT_USAGE: Final = 2
EXIT_UNREACHABLE: Final = 3
EXIT_INTERRUPTED: Final = 130

_DURATION: Final = re.compile(r"([1-9][0-9]{0,5})([smhd]?)\Z")
_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
PIPE_WIDTH: Final = 240
"""Columns of a table that goes into a pipe."""
_STYLES: Final = {
    "completed": "green",
    "active": "green",
    "running": "cyan",
    "failed": "red",
    "refused": "red",
    "revoked": "red",
    "killed": "yellow",
    "expired": "yellow",
    "suspended": "yellow",
    "pending": "dim",
    "queued": "dim",
}


SHELLS: Final = ("bash", "zsh", "fish")


def completion_script(name: str, shell: str) -> str:
    """Return what makes a shell of `SHELLS` ask the command `name` how its line could go on."""
    import click
    from click.shell_completion import BashComplete, FishComplete, ZshComplete

    kind = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}[shell]
    return kind(click.Group(name), {}, name, f"_{name.upper()}_COMPLETE").source()


def style_of(word: str) -> str:
    """Return the style of a state, none for any other word."""
    return _STYLES.get(word, "")


class Unreachable(Unavailable):
    """The node does not answer at its address."""

    code = "unreachable"


def parse_duration(text: str) -> int:
    """Return the seconds of `90`, `90s`, `15m`, `24h` or `7d`; raises ValueError."""
    found = _DURATION.match(text)
    if found is None:
        raise ValueError(f"{escape(text)} is no duration; write 90s, 15m, 24h or 7d")
    return int(found[1]) * _SECONDS[found[2]]


def run(command: click.Command, name: str, arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code; no traceback comes from what can be foreseen."""
    import click

    _open_closed_streams()
    try:
        _check_text(sys.argv[1:] if arguments is None else arguments)
        code = command.main(arguments, prog_name=name, standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return EXIT_USAGE
    except click.ClickException as error:
        complain("usage", error.format_message())
        return EXIT_USAGE
    except HubspokeError as error:
        complain(error.code, error.message)
        return EXIT_UNREACHABLE if isinstance(error, Unreachable) else EXIT_REFUSED
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _drop_output()
        return EXIT_REFUSED
    except OSError as error:
        complain("system", f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error))
        try:
            sys.stdout.flush()
        except OSError:
            _drop_output()
        return EXIT_REFUSED
    return code if isinstance(code, int) else 0


def _open_closed_streams() -> None:
    """Fill standard streams that were closed (`>&-`): else the next file opened, a store even, takes their place."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))


def _check_text(arguments: Sequence[str]) -> None:
    import click

    for number, argument in enumerate(arguments, 1):
        try:
            argument.encode()
        except UnicodeEncodeError as error:
            raise click.UsageError(f"argument {number} is no UTF-8 text; check the terminal's encoding") from error


def _drop_output() -> None:
    """Let what nobody takes go: Python must not complain about it when it flushes at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def complain(code: str, message: str) -> None:
    """Say on stderr what happened, in one line."""
    print(f"error: {escape(code)}: {escape(' '.join(message.split()))}", file=sys.stderr)  # noqa: T201  # a command line


def safe(value: object) -> str:
    """Return a value as one line that a terminal shows as what it is (attack row 56); nothing for None."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict | list):
        import json

        return json.dumps(value).replace("\x7f", "\\u007f")
    return "" if value is None else escape(str(value))


def print_line(text: str) -> None:
    """Print a line for people, already escaped."""
    print(text)  # noqa: T201  # this is the command line


def print_json(value: Any) -> None:
    """Print one JSON document on one line."""
    import json

    # The one control character that JSON leaves as it is.
    print_line(json.dumps(value).replace("\x7f", "\\u007f"))


def print_facts(facts: Mapping[str, str]) -> None:
    """Print names and values below each other, the values already escaped."""
    width = max(map(len, facts), default=0)
    for name, value in facts.items():
        print_line(f"{name:<{width}}  {value}")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table of cells that are already escaped; states in their colours on a terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, column in enumerate(columns):
        # The first column names the row: it must stay whole to be copied.
        table.add_column(column, overflow="fold", no_wrap=number == 0)
    for row in rows:
        table.add_row(*(Text(cell, style=style_of(cell)) for cell in row))
    Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False).print(table)


class Output:
    """Prints facts: for scripts as one JSON document, otherwise as lines and tables for people."""

    def __init__(self, *, json: bool) -> None:
        self.json = json

    def facts(self, value: Mapping[str, Any]) -> None:
        """Print named values: the document, or `name  value` lines of what is set."""
        if self.json:
            print_json(value)
        else:
            print_facts({safe(name): safe(each) for name, each in value.items() if each is not None})

    def table(
        self, rows: Sequence[Mapping[str, Any]], columns: Mapping[str, Callable[[Mapping[str, Any]], object]]
    ) -> None:
        """Print rows: the document, or a table with the given columns that fits the terminal."""
        if self.json:
            print_json(rows)
        else:
            print_table(list(columns), [[safe(value(row)) for value in columns.values()] for row in rows])


def relative_time(then_s: float, now_s: float) -> str:
    """Return where `then_s` lies from `now_s`: `now`, `5 s ago`, `in 3 h`; whole units, rounded towards now."""
    passed = int(now_s - then_s)
    if passed == 0:
        return "now"
    count, unit = next(
        (abs(passed) // seconds, unit)
        for unit, seconds in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))
        if abs(passed) >= seconds
    )
    return f"{count} {unit} ago" if passed > 0 else f"in {count} {unit}"
