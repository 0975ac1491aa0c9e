"""What an object shows of itself ends in logs and tracebacks: no secret may be in it (attack row 63)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from common.configuration import ValkeySection
from common.invites import Invite, encode_secret
from common.keyring import OwnedKey
from hub.node import Hub
from hub.settings import HubDirectory, HubSettings
from spoke.app import Spoke
from spoke.local_api import Access
from spoke.settings import SpokeDirectory, SpokeSettings
from tests.envelopes import HUB_KEY, NOW_S, SPOKE_KEY, id_of

SECRET = "s3cret-" * 7
VALKEY = ValkeySection(url=f"redis://:{SECRET}@valkey.example.org")
HUB = HubSettings.model_construct(valkey=VALKEY)
SPOKE = SpokeSettings.model_construct(valkey=VALKEY)


def _invite() -> Invite:
    secret = encode_secret(SECRET.encode()[:32])
    return Invite(
        hub="hub-eu",
        url="http://127.0.0.1:8700",
        fingerprint=HUB_KEY.public.fingerprint,
        invite=id_of(1),
        secret=secret,
        exp=NOW_S,
    )


OBJECTS: dict[str, object] = {
    "a hub before it runs": Hub(HubDirectory(Path("/srv/hub")), HUB, HUB_KEY, SECRET),
    "a spoke before it runs": Spoke(SpokeDirectory(Path("/srv/spoke")), SPOKE, SPOKE_KEY, SECRET),
    "who may call the local API": Access(SECRET),
    "the address of a Valkey": VALKEY,
    "an owned key": OwnedKey("hub-eu", HUB_KEY.public),
    "a signing key": HUB_KEY,
    "an invite": _invite(),
}


@pytest.mark.attack(63)
@pytest.mark.parametrize("show", [repr, str, "{}".format], ids=["repr", "str", "format"])
@pytest.mark.parametrize("thing", OBJECTS.values(), ids=OBJECTS)
def test_nothing_secret_is_in_what_an_object_shows_of_itself(thing: object, show: Any) -> None:
    shown = show(thing)
    assert shown
    for secret in (SECRET, encode_secret(SECRET.encode()[:32]), "\\x01\\x01", "01010101"):
        assert secret not in shown
