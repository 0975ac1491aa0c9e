"""The table of settings in docs/operations.md is that of the models: each has a row, which says when it changes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from common.reloading import setting_names
from hub.settings import LIVE as HUB_LIVE
from hub.settings import HubSettings
from spoke.settings import LIVE as SPOKE_LIVE
from spoke.settings import SpokeSettings

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
ROW = re.compile(r"^\| `\[(\w+)\]( \w+)?`((?:, `\w+`)*) \| (both|hub|spoke) \| (restart|reload)\b", re.MULTILINE)


def documented(kind: str) -> dict[str, str]:
    """Return when each setting of that node takes effect."""
    found: dict[str, str] = {}
    for section, first, more, node, when in ROW.findall(PAGE.read_text()):
        if node in (kind, "both"):
            members = [first.strip(), *re.findall(r"\w+", more)]
            names = [f"{section}.{member}" if member else section for member in members]
            assert not found.keys() & set(names), "a setting stands there twice"
            found |= dict.fromkeys(names, when)
    return found


@pytest.mark.parametrize(
    ("kind", "model", "live"), [("hub", HubSettings, HUB_LIVE), ("spoke", SpokeSettings, SPOKE_LIVE)]
)
def test_each_setting_has_a_row_that_says_when_it_changes(
    kind: str, model: type[HubSettings | SpokeSettings], live: frozenset[str]
) -> None:
    names = set(setting_names(model))
    assert live <= names
    assert documented(kind) == {name: "reload" if name in live else "restart" for name in names}
