"""SIGHUP: the configuration is read again, and what can change while the node runs does.

Decides setting by setting: one that is `live` takes its new value, any other keeps its old one until the next start,
and is named in the log. A configuration that cannot be used changes nothing. Nothing here touches agents.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Final, Generic, TypeVar

import structlog
from pydantic import BaseModel

from common.configuration import NodeSettings, Section
from common.errors import HubspokeError

S = TypeVar("S", bound=NodeSettings)
_log: Final = structlog.get_logger("settings")


def setting_names(settings: type[BaseModel]) -> Iterator[str]:
    """Yield the name of every setting: `SECTION.MEMBER`, or `SECTION` for one that is a value as a whole."""
    for name, field in settings.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            yield from (f"{name}.{member}" for member in kind.model_fields)
        else:
            yield name


def _value(settings: BaseModel, name: str) -> object:
    section, _, member = name.partition(".")
    value = getattr(settings, section)
    return getattr(value, member) if member else value


def changed(old: NodeSettings, new: NodeSettings) -> frozenset[str]:
    """Return the names of the settings that differ."""
    return frozenset(name for name in setting_names(type(old)) if _value(old, name) != _value(new, name))


def merge(old: S, new: S, live: frozenset[str]) -> S:
    """Return the new settings with the old value wherever the name is not `live`."""
    kept = changed(old, new) - live
    sections: dict[str, object] = {name: getattr(old, name) for name in kept if "." not in name}
    for section in {name.partition(".")[0] for name in kept if "." in name}:
        members = {name.partition(".")[2]: _value(old, name) for name in kept if name.startswith(f"{section}.")}
        sections[section] = getattr(new, section).model_copy(update=members)
    return new.model_copy(update=sections)


class Reloading(Generic[S]):
    """Reads a node's configuration again; `current` is the one in force.

    `prepare` makes ready what works with a configuration and returns what puts it in force; it raises before anything
    has changed.
    """

    def __init__(
        self,
        read: Callable[[], S],
        prepare: Callable[[S], Callable[[], None]],
        log: Callable[[S], None],
        live: frozenset[str],
        current: S,
    ) -> None:
        self._read = read
        self._prepare = prepare
        self._log = log
        self._live = live
        self._current = current

    async def reload(self) -> None:
        """Do it now; what goes wrong is logged."""
        try:
            new = await asyncio.to_thread(self._read)
            effective = merge(self._current, new, self._live)
            adopt = self._prepare(effective)
            self._log(effective)
        except HubspokeError as error:
            _log.error("settings.not_reloaded", code=error.code, reason=error.message)
            return
        adopt()
        taken, left = sorted(changed(self._current, effective)), sorted(changed(effective, new))
        self._current = effective
        _log.info("settings.reloaded", changed=taken)
        if left:
            _log.warning("settings.need_restart", settings=left, reason="these keep their values until the next start")
