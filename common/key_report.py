"""What `keys show` tells of a node's own keys: the current one, a rotation under way, and which peer sees which."""

from __future__ import annotations

from typing import Any

from common.ids import rfc3339
from common.keyring import NodeKeys
from common.peers import OwnRotation, Peer, Trust


def report_keys(instance: str, keys: NodeKeys, trust: Trust) -> dict[str, Any]:
    """Return the facts as JSON; `rotation` is None before the first one."""
    current = keys.current.public
    rotation = trust.rotation
    return {
        "id": instance,
        "kid": current.kid,
        "fingerprint": current.fingerprint,
        "jwk": current.to_jwk(),
        "rotation": None if rotation is None else _report_rotation(rotation, trust),
        "peers": [_report_peer(peer, keys, rotation) for peer in trust.peers() if peer.state != "revoked"],
    }


def _report_rotation(rotation: OwnRotation, trust: Trust) -> dict[str, Any]:
    return {
        "epoch": rotation.epoch,
        "startedAt": rfc3339(rotation.started_s * 1000),
        "former": rotation.former.fingerprint,
        "formerRetiresAt": rfc3339(rotation.retires_at * 1000),
        "complete": not trust.unaware(),
    }


def _report_peer(peer: Peer, keys: NodeKeys, rotation: OwnRotation | None) -> dict[str, Any]:
    return {
        "id": peer.instance,
        "state": peer.state,
        "signedWith": keys.signer_for(peer.instance).public.fingerprint,
        "acknowledged": rotation is None or peer.acknowledged >= rotation.epoch,
        "problem": peer.rotation_problem,
    }
