"""A machine believes a command for the hub's signature, whatever its store and the node's answer hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from common.commands import Spawn, content_hash, parse_commands
from common.errors import CommandRefused
from common.keyring import OwnedKey
from common.peers import LOCAL_TENANT
from spoke.agent_record import AgentRecord, TamperedRecord
from spoke.held import Held
from spoke.machines.asking import NodesPermission
from spoke.machines.line import Line, NodeAway
from spoke.machines.words import Key, Owner, Proof, write
from spoke.permission import CannotAsk, StartedElsewhere
from spoke.queue_terms import Asked, Claim
from spoke.runs import Runs
from spoke.supervision.supervisor import Supervisor
from tests.envelopes import HUB, HUB_KEY, NOW_S, OTHER_KEY, SPOKE, SPOKE_KEY, command, hub_peer, id_of, sign, spawn

SPAWN = spawn(id=id_of(2), timeoutS=600)
RAW = sign(command(SPAWN))


class FakeLine(Line):
    """Gives these answers, in their order."""

    def __init__(self, *answers: dict[str, Any] | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, dict[str, Any]]] = []

    async def ask(self, what: str, about: dict[str, Any], patience_s: float) -> dict[str, Any]:
        self.asked.append((what, about))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def permission(tmp_path: Path, *answers: dict[str, Any] | Exception) -> tuple[NodesPermission, FakeLine]:
    line = FakeLine(*answers)
    return NodesPermission(line, SPOKE, Runs(tmp_path / "runs"), Supervisor()), line


def proof(key: OwnedKey | None = None, *, max_timeout_s: int = 86_400) -> dict[str, Any]:
    keys = [Key.of(key or OwnedKey(HUB, HUB_KEY.public))]
    owner = Owner(instance=HUB, connection=hub_peer().connection, keys=keys, max_timeout_s=max_timeout_s)
    return write(Proof(owner=owner, own=[Key.of(OwnedKey(SPOKE, SPOKE_KEY.public))]))


def claim(raw: bytes = RAW, **changes: str) -> Claim:
    (parsed,) = parse_commands([SPAWN])
    assert isinstance(parsed, Spawn)
    fields = {
        "id": id_of(2), "tenant": hub_peer().tenant, "status": "spawning", "attempt": "1", "hash": content_hash(parsed),
        "index": "0", "queued_at": str(NOW_S * 1000), "timeout": "600",
    }  # fmt: skip
    return Claim(AgentRecord({**fields, **changes}), "7", Asked(raw))


async def test_what_both_verified_is_proved_within_the_ceiling_of_the_node(tmp_path: Path) -> None:
    asked, line = permission(tmp_path, proof(max_timeout_s=60))
    proved = await asked.prove(claim())
    assert (proved.spawn.id, proved.spawn.timeout_s, proved.claims.iss) == (id_of(2), 60, HUB)
    assert line.asked == [
        ("prove", {"tenant": hub_peer().tenant, "agent": id_of(2), "token": "7", "attempt": 1}),
    ]


@pytest.mark.attack(61)
@pytest.mark.parametrize(
    ("told", "held"),
    [
        (proof(OwnedKey(HUB, OTHER_KEY.public)), claim()),
        (proof(OwnedKey(HUB, HUB_KEY.public, retires_at=NOW_S - 1)), claim()),
        (proof(), claim(sign(command(SPAWN), key=OTHER_KEY))),
        (proof(), claim(sign(command({**SPAWN, "taskId": "T-99"})))),
        (proof(), claim(hash="0" * 64)),
        (proof(), claim(tenant="hub-us_2")),
        (proof(), claim(tenant=LOCAL_TENANT)),
        (write(Proof(owner=None, own=[])), claim()),
    ],
)
async def test_what_the_machine_itself_cannot_verify_it_does_not_start(
    tmp_path: Path, told: dict[str, Any], held: Claim
) -> None:
    asked, _ = permission(tmp_path, told)
    with pytest.raises(TamperedRecord):
        await asked.prove(held)


async def test_while_the_node_is_away_it_is_given_back_before_and_waited_for_after_it_may_be_noted(
    tmp_path: Path,
) -> None:
    asked, _ = permission(tmp_path, NodeAway("away"))
    with pytest.raises(CannotAsk):
        await asked.prove(claim())
    asked, line = permission(tmp_path, NodeAway("away"), NodeAway("away"), {})
    held = Held(claim())
    await asked.start(held)
    assert held.starting
    assert [what for what, _ in line.asked] == ["start"] * 3


async def test_what_is_elsewhere_is_not_started(tmp_path: Path) -> None:
    refused = CommandRefused("not_allowed", "it was started on another machine before")
    for what in ("prove", "start"):
        asked, _ = permission(tmp_path, refused)
        with pytest.raises(StartedElsewhere, match="another machine"):
            await (asked.prove(claim()) if what == "prove" else asked.start(Held(claim())))
