"""What every command has in common: `--dir` and `--json` in any place, errors as one line, exit codes, lazy imports."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final, TypeVar

import click

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_UNREACHABLE: Final = 3
EXIT_INTERRUPTED: Final = 130
_UNREACHABLE_CODE: Final = "node_unreachable"

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(slots=True)
class Invocation:
    """What was said on the command line about the whole invocation."""

    directory: Path | None = None
    as_json: bool = False


def _remember(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def callback(context: click.Context, _parameter: click.Parameter, value: Any) -> None:
        if value:
            setattr(context.ensure_object(Invocation), name, value)

    return callback


def node_options(function: Function) -> Function:
    """Add `--dir` and `--json`; said after a command they count as much as before it."""
    directory = click.option(
        "--dir",
        metavar="DIR",
        type=click.Path(path_type=Path),
        expose_value=False,
        callback=_remember("directory"),
        help="The hub's directory (or HUB_DIR).",
    )
    as_json = click.option(
        "--json", is_flag=True, expose_value=False, callback=_remember("as_json"), help="Print JSON, for programs."
    )
    return directory(as_json(function))


class LazyGroup(click.Group):
    """A group that imports a command when it is used, and knows the short help of all without importing any."""

    def __init__(self, commands: Mapping[str, tuple[str, str]], **attributes: Any) -> None:
        super().__init__(**attributes)
        self._lazy = commands

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the table."""
        return list(self._lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command."""
        if cmd_name not in self._lazy:
            return None
        module, _, attribute = self._lazy[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from the table."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self._lazy.items()])


def _root(commands: Mapping[str, tuple[str, str]]) -> click.Group:
    @node_options
    def nothing() -> None:
        pass

    return LazyGroup(
        commands,
        name="hub",
        callback=nothing,
        params=list(reversed(getattr(nothing, "__click_params__", []))),
        help="A federated hub: sends signed commands to spokes and shows what their agents do.",
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def run(commands: Mapping[str, tuple[str, str]], arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code; no traceback reaches the user for what can be foreseen.

    `arguments` are those of the process unless given.
    """
    try:
        _refuse_foreign_common()
        return int(_root(commands).main(arguments, prog_name="hub", standalone_mode=False) or 0)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return EXIT_USAGE
    except click.ClickException as error:
        _complain("usage", error.format_message())
        return EXIT_USAGE
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return EXIT_FAILED
    except Exception as error:
        return _exit_by(error)


def _exit_by(error: Exception) -> int:
    from common.errors import HubspokeError

    if not isinstance(error, HubspokeError):
        raise error
    _complain(error.code, error.message)
    return EXIT_UNREACHABLE if error.code == _UNREACHABLE_CODE else EXIT_FAILED


def _complain(code: str, message: str) -> None:
    from common.logs import escape

    click.echo(f"error: {escape(code)}: {escape(' '.join(message.split()))}", err=True)


def _refuse_foreign_common() -> None:
    """Other distributions bring a package `common`, too: refuse to run with one that is not ours."""
    import common
    import hub

    ours, found = (Path(str(package.__file__)).parent.parent for package in (hub, common))
    if ours != found:
        raise click.UsageError(f"another distribution's package `common` hides ours: uninstall it from {found}")
