"""What was requeued is signed by the spoke for the owner of the agent, and proves nothing for anybody else."""

from __future__ import annotations

from typing import Any

import pytest

from common.keyring import Keyring, OwnedKey
from common.peers import LOCAL_TENANT, Trust
from spoke.agent_record import AgentRecord, TamperedRecord
from spoke.policy import LOCAL_POLICY
from spoke.stored_command import StoredCommands
from tests.envelopes import HUB, HUB_KEY, NOW_S, SPOKE, SPOKE_KEY, command, hub_peer, id_of, sign, spawn
from tests.unit.spoke.test_stored_command import OTHER_HUB, hash_of, other_peer

pytestmark = pytest.mark.attack(61)
TENANT, OTHER_TENANT = hub_peer().tenant, other_peer().tenant
AGAIN = spawn(id=id_of(2))
COMMANDS = StoredCommands(
    SPOKE,
    lambda: Keyring([OwnedKey(SPOKE, SPOKE_KEY.public)]),
    lambda: Trust((hub_peer(), other_peer())),
    lambda _: LOCAL_POLICY,
)


def record(**changes: str | None) -> AgentRecord:
    fields = {
        "id": AGAIN["id"], "tenant": TENANT, "queued_at": str(NOW_S * 1000), "index": "0", "hash": hash_of(AGAIN),
        "timeout": str(AGAIN["timeoutS"]), "origin": id_of(1), **changes,
    }  # fmt: skip
    return AgentRecord({name: value for name, value in fields.items() if value is not None})


def signed_by_us(**changes: Any) -> bytes:
    return sign(command(AGAIN, **{"iss": SPOKE, "aud": HUB, **changes}), key=SPOKE_KEY)


def test_what_the_operator_requeued_is_proved() -> None:
    assert COMMANDS.prove(record(), signed_by_us()).id == AGAIN["id"]


@pytest.mark.parametrize(
    ("changes", "raw"),
    [
        pytest.param({}, sign(command(AGAIN), key=HUB_KEY), id="signed by the hub, as if the operator had"),
        pytest.param({"origin": None}, signed_by_us(), id="signed by us, as if the hub had"),
        pytest.param({}, signed_by_us(aud=SPOKE), id="a local spawn, as the hub's"),
        pytest.param({"tenant": LOCAL_TENANT}, signed_by_us(), id="the hub's, as a local spawn"),
        pytest.param({"tenant": OTHER_TENANT}, signed_by_us(), id="the hub's, as another hub's"),
        pytest.param({}, signed_by_us(aud=OTHER_HUB), id="another hub's, as the hub's"),
        pytest.param({"tenant": f"{HUB}_99"}, signed_by_us(), id="of a connection that is over"),
        pytest.param({"id": id_of(3)}, signed_by_us(), id="under another id"),
    ],
)
def test_it_proves_nothing_else(changes: dict[str, str | None], raw: bytes) -> None:
    with pytest.raises(TamperedRecord):
        COMMANDS.prove(record(**changes), raw)


def test_owners() -> None:
    assert COMMANDS.owner(TENANT) == HUB
    assert COMMANDS.owner(LOCAL_TENANT) == SPOKE
