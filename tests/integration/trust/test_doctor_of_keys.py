"""What `hub doctor` says of the hub's own key."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from common.clock import SystemClock
from common.own_keys import OwnKeys, rotate
from common.rotation_store import RotationStore
from tests.envelopes import key_of
from tests.integration.hub.hub_node import HubNode

DAY_S = 86_400


async def findings(hub: HubNode) -> dict[str, tuple[bool, str]]:
    told = json.loads((await hub.hub("doctor", "--json")).stdout)
    return {finding["check"]: (finding["ok"], finding["detail"]) for finding in told}


@pytest.mark.parametrize(
    ("age_days", "ok", "said"),
    [(0, True, "token in"), (366, True, "366 days old: hub keys rotate"), (-2, False, "lies in the future")],
    ids=["fresh", "old", "from the future"],
)
async def test_the_age_of_the_key(tmp_path: Path, age_days: int, ok: bool, said: str) -> None:
    hub = HubNode(tmp_path)
    then = time.time() - age_days * DAY_S
    os.utime(hub.place.key_file(hub.id), (then, then))
    good, detail = (await findings(hub))["files"]
    assert (good, said in detail) == (ok, True)


async def test_who_has_yet_to_hear_of_a_rotation_and_who_refused_it(tmp_path: Path) -> None:
    hub = HubNode(tmp_path)
    hub.add_peer("away", key_of(2).public, None)
    assert (await findings(hub))["rotation"][0] is True
    with hub.trust() as trust:
        store, files = RotationStore(trust), hub.place.key_files(hub.id)
        rotate(files, store, OwnKeys(files, trust), SystemClock().now_ms() // 1000, 3600)
        ok, detail = (await findings(hub))["rotation"]
        assert (ok, "away has yet to hear" in detail) == (True, True)
        store.note_problem(trust.find("away"), "stale: the epoch")
        ok, detail = (await findings(hub))["rotation"]
        assert (ok, "away (stale: the epoch)" in detail) == (False, True)
        files.former.replace(files.current)
        assert "which this node rotated to" in (await findings(hub))["rotation"][1]
