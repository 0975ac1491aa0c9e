"""What the other processes of the trust store's tests do: each function runs in a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path

from common.envelope import Claims
from common.errors import HubspokeError
from common.introduction import Introduction
from common.keyring import PublicKey
from common.peers import Kind
from common.trust_store import NewPeer, TrustStore
from tests.envelopes import HUB, HUB_KEY, NOW_S, SPOKE, id_of, key_of


def open_store(path: Path) -> TrustStore:
    return TrustStore(path, HUB, HUB_KEY.public)


def introduction(
    instance: str = SPOKE,
    key: PublicKey | None = None,
    invite: str | None = None,
    url: str | None = None,
    kind: Kind = "spoke",
) -> Introduction:
    claims = Claims(v=1, iss=instance, aud=HUB, jti=id_of(99), iat=NOW_S, exp=NOW_S + 60)
    return Introduction(claims, kind, url, key or key_of(2).public, invite, None)


def add_and_suspend(path: Path) -> None:
    store = open_store(path)
    store.add(NewPeer(SPOKE, "spoke", key_of(2).public, None, {}), "active", NOW_S)
    store.set_state(SPOKE, "suspended")
    store.close()


def redeem_as_many(path: Path, invite: str, numbers: list[int], start: Barrier, outcomes: Queue[str]) -> None:
    """Redeem one invite under as many names and keys as there are numbers, all at once."""

    def redeem(number: int) -> str:
        store = open_store(path)
        try:
            start.wait(timeout=30)
            return store.redeem(introduction(f"spoke-{number}", key_of(number).public, invite), NOW_S).instance
        except HubspokeError as error:
            return error.code
        finally:
            store.close()

    _all_at_once(redeem, numbers, outcomes)


def request_as_many(path: Path, numbers: list[int], start: Barrier, outcomes: Queue[str]) -> None:
    """Ask to join under as many names and keys as there are numbers, all at once."""

    def request(number: int) -> str:
        store = open_store(path)
        try:
            start.wait(timeout=30)
            return store.request(introduction(f"spoke-{number}", key_of(number).public), NOW_S).state
        except HubspokeError as error:
            return error.code
        finally:
            store.close()

    _all_at_once(request, numbers, outcomes)


def _all_at_once(act: Callable[[int], str], numbers: list[int], outcomes: Queue[str]) -> None:
    with ThreadPoolExecutor(len(numbers)) as threads:
        for outcome in threads.map(act, numbers):
            outcomes.put(outcome)
