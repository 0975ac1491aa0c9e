"""What every command has in common: `--dir` and `--json` in any place, errors as one line, exit codes, lazy imports."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final, TypeVar

import click

EXIT_USAGE: Final = 2

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


def check_spoke(_context: click.Context, _parameter: click.Parameter, spoke: str | None) -> str | None:
    """Refuse what is no instance id: it may become part of a path, and `../agents` would ask for something else."""
    from common.ids import is_instance_id

    if spoke is not None and not is_instance_id(spoke):
        raise click.BadParameter("that is no id of a spoke; see hub peer list")
    return spoke


def confirmed(question: str, *, yes: bool) -> bool:
    """Whether to go on: asks on a terminal unless `yes`; a program that calls us has decided."""
    return yes or not sys.stdin.isatty() or click.confirm(question, err=True)


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
    @click.version_option(package_name="hubspoke", prog_name="hub")
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
    if found := _foreign_common():
        message = f"another distribution's package `common` hides ours: uninstall it from {found}"
        click.echo(f"error: usage: {message}", err=True)
        return EXIT_USAGE
    from common import command_line

    return command_line.run(_root(commands), "hub", arguments)


def _foreign_common() -> Path | None:
    """Return where a package `common` of another distribution lies, when it would be taken for ours."""
    import common
    import hub

    ours, found = (Path(str(package.__file__)).parent.parent for package in (hub, common))
    return None if ours == found else found
