"""Rotations on the wire: taking those of peers, and telling every peer of ours until it has acknowledged it.

A peer that is away hears of it when it is back. When none is left that does not know the new key, and the overlap is
over, the former private key is deleted. A refusal is noted for `keys show` and tried again, with growing pauses.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Any, Final

import structlog

from common import strict_json
from common.clock import Clock
from common.connection import Admitted
from common.envelope import RotateBody
from common.errors import CommandRefused, HubspokeError
from common.exchange import EnvelopeNotTaken, Exchange
from common.keyring import SigningKey
from common.own_keys import KeyFiles, OwnKeys
from common.peers import OwnRotation, Peer, Trust
from common.rotation import parse_rotation, rotate_fields, settled
from common.rotation_store import RotationStore

POLL_S: Final = 0.5
_FIRST_PAUSE_S: Final = 0.5
_MAX_PAUSE_S: Final = 60.0
_UNAUTHORIZED: Final = 401
_log: Final = structlog.get_logger("rotation")


class RotationIntake:
    """Takes ROTATEs of peers for the node `instance`; `overlap_s` later a former key counts no more."""

    def __init__(self, instance: str, store: RotationStore, clock: Clock, overlap_s: int) -> None:
        self._instance = instance
        self._store = store
        self._clock = clock
        self._overlap_s = overlap_s

    def check(self, admitted: Admitted) -> None:
        """Raise `EnvelopeRejected` for a ROTATE that is none, before anything is noted of it."""
        envelope = admitted.envelope
        parse_rotation(self._body(admitted), envelope.kid, self._instance)

    def take(self, admitted: Admitted) -> bytes:
        """Take the peer's next key and return the one result of the REPLY; raises `EnvelopeRejected`, `Unavailable`."""
        following = parse_rotation(self._body(admitted), admitted.envelope.kid, self._instance)
        peer, kid = admitted.peer, following.key.kid
        retires_at = self._clock.now_ms() // 1000 + self._overlap_s
        try:
            changed = self._store.rotate_peer(peer, following, retires_at)
        except CommandRefused as error:
            _log.warning("rotation.refused", peer=peer.instance, kid=kid, code=error.code, reason=error.message)
            told = {"code": error.code, "detail": error.message, "retryable": error.retryable}
            return strict_json.encode({"id": kid, "error": told})
        _log.info("rotation.taken", peer=peer.instance, kid=kid, epoch=following.epoch, changed=changed)
        return strict_json.encode({"id": kid, "epoch": following.epoch})

    def _body(self, admitted: Admitted) -> RotateBody:
        body = admitted.envelope.body
        if not isinstance(body, RotateBody):
            raise TypeError("only a ROTATE rotates a key")
        return body


class Announcer:
    """Tells peers of our own rotations; `trust` says to whom, `clock` when the former key may go."""

    def __init__(
        self,
        files: KeyFiles,
        keys: OwnKeys,
        store: RotationStore,
        exchange: Exchange,
        trust: Callable[[], Trust],
        clock: Clock,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._files = files
        self._keys = keys
        self._store = store
        self._exchange = exchange
        self._trust = trust
        self._clock = clock
        self._jitter = jitter
        self._failures: dict[str, tuple[int, float]] = {}

    async def run(self) -> None:
        """Announce until cancelled."""
        while True:
            try:
                await self._round()
            except HubspokeError as error:
                _log.error("rotation.failed", code=error.code, reason=error.message)
            await asyncio.sleep(POLL_S)

    async def _round(self) -> None:
        trust = self._trust()
        rotation = trust.rotation
        if rotation is None:
            return
        self._files.settle(rotation)
        unaware = trust.unaware()
        due = [peer for peer in unaware if peer.state == "active" and self._is_due(peer)]
        async with asyncio.TaskGroup() as group:
            for peer in due:
                group.create_task(self._tell(peer, rotation))
        if not unaware and self._clock.now_ms() // 1000 >= rotation.retires_at:
            self._files.forget_former(rotation)

    def _is_due(self, peer: Peer) -> bool:
        return time.monotonic() >= self._failures.get(peer.tenant, (0, 0.0))[1]

    async def _tell(self, peer: Peer, rotation: OwnRotation) -> None:
        try:
            problem = await self._send(peer, rotation, self._keys.signer_for(peer.instance))
        except HubspokeError as error:
            problem = f"{error.code}: {error.message}"
        if problem is None:
            self._failures.pop(peer.tenant, None)
            self._store.acknowledge(peer, rotation.epoch)
            _log.info("rotation.acknowledged", peer=peer.instance, epoch=rotation.epoch)
            return
        _log.warning("rotation.not_acknowledged", peer=peer.instance, reason=problem)
        self._store.note_problem(peer, problem)
        failures = self._failures.get(peer.tenant, (0, 0.0))[0] + 1
        pause_s = min(_MAX_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(failures, 10)) * (0.5 + self._jitter() / 2)
        self._failures[peer.tenant] = (failures, time.monotonic() + pause_s)

    async def _send(self, peer: Peer, rotation: OwnRotation, signer: SigningKey) -> str | None:
        """Send it once, or once more under the new key when the peer no longer takes the former one."""
        current = self._keys.current
        try:
            return await self._deliver(peer, rotation, signer)
        except EnvelopeNotTaken as refused:
            if refused.status != _UNAUTHORIZED or signer.kid == current.kid:
                raise
            # It may have taken the rotation long ago, and its answer been lost.
            return await self._deliver(peer, rotation, current)

    async def _deliver(self, peer: Peer, rotation: OwnRotation, signer: SigningKey) -> str | None:
        fields = rotate_fields(signer.kid, self._keys.current, rotation.epoch, peer.instance)
        reply = await self._exchange.send_rotation(peer, signer, fields)
        result: dict[str, Any] = reply.results[0].model_dump(exclude_none=True)
        return settled(result, rotation.key.kid, rotation.epoch)
