"""`hub audit`: reads the hub's audit."""

from __future__ import annotations

from common.audit_command import Audited, audit_group
from hub.cli.frame import node_options
from hub.cli.output import invocation


def _find() -> Audited:
    from hub.cli.local import directory
    from hub.settings import load

    place = directory()
    node = load(place).node.id
    keys = [key.public for key in place.key_files(node).load().values()]
    return Audited(place.audit, node, keys, invocation().as_json)


audit = audit_group(_find, node_options)
