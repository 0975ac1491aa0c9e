"""`spoke audit`: reads the spoke's audit."""

from __future__ import annotations

import click

from common.audit_command import Audited, audit_group
from spoke.cli.context import current


def _remember_json(context: click.Context, _parameter: click.Parameter, is_wanted: bool) -> None:
    if is_wanted:
        context.find_root().obj["json"] = True


_options = click.option(
    "--json", is_flag=True, expose_value=False, callback=_remember_json, help="Print facts as JSON."
)


def _find() -> Audited:
    spoke = current()
    node = spoke.settings().node.id
    keys = [key.public for key in spoke.directory.key_files(node).load().values()]
    return Audited(spoke.directory.audit, node, keys, spoke.out.json)


audit = audit_group(_find, _options)
