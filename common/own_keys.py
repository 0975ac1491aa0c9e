"""A node's own private keys: the current one, the former one of a rotation that is under way, and who is to see which.

Which key is current says the trust store, one row, never the name of a file: the files are renamed after that row was
written, and a crash between leaves nothing undecided. A running node follows a rotation that another process made at
its next signature. To a peer that has not acknowledged the latest key the former one signs, however long that takes.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from common.inbox import TrustSource
from common.keyfiles import KeyFileError, create_signing_key, load_signing_key
from common.keyring import Keyring, OwnedKey, PublicKey, SigningKey
from common.peers import OwnRotation, Trust
from common.rotation_store import RotationStore


@dataclass(frozen=True, slots=True)
class KeyFiles:
    """The files `ID.key`, `ID.next.key` while a rotation begins, `ID.prev.key` until its overlap is over."""

    directory: Path
    instance: str

    @property
    def current(self) -> Path:
        """The key; at a crash in the middle of a rotation still the former one."""
        return self.directory / f"{self.instance}.key"

    @property
    def following(self) -> Path:
        """A key that is about to become ours."""
        return self.directory / f"{self.instance}.next.key"

    @property
    def former(self) -> Path:
        """The key before the latest rotation."""
        return self.directory / f"{self.instance}.prev.key"

    def load(self) -> dict[str, SigningKey]:
        """Read all that are there, by key id; raises `KeyFileError`."""
        # In this order no key is missed while another process renames them.
        following = _load_if_there(self.following)
        keys = (load_signing_key(self.current), following, _load_if_there(self.former))
        return {key.kid: key for key in keys if key is not None}

    def prepare(self) -> SigningKey:
        """Make the next key durably, or return the one that an interrupted rotation left."""
        return load_signing_key(self.following) if self.following.exists() else create_signing_key(self.following)

    def settle(self, rotation: OwnRotation) -> None:
        """Call the files what they are after this rotation; may be repeated after a crash at any step."""
        if not self.following.exists() or load_signing_key(self.following).public != rotation.key:
            return
        try:
            if load_signing_key(self.current).public != rotation.key:
                self.former.unlink(missing_ok=True)
                # A link and not a rename: at no moment is there no current key.
                os.link(self.current, self.former)
            self.following.replace(self.current)
            self._sync()
        except OSError as error:
            raise KeyFileError(f"cannot rename the keys in {self.directory}: {error.strerror}") from error

    def forget_former(self, rotation: OwnRotation) -> None:
        """Remove the former key of a rotation that is over; another file in its place stays."""
        with suppress(KeyFileError, OSError):
            if load_signing_key(self.former).public == rotation.former:
                self.former.unlink()
                self._sync()

    def _sync(self) -> None:
        descriptor = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _load_if_there(path: Path) -> SigningKey | None:
    try:
        return load_signing_key(path)
    except KeyFileError:
        if os.path.lexists(path):
            raise
        return None


class OwnKeys:
    """The keys of the node `files.instance` under the rotations that `trust` knows of; follows them by itself."""

    def __init__(self, files: KeyFiles, trust: TrustSource) -> None:
        self._files = files
        self._trust = trust
        self._epoch = -1
        self._keys: dict[str, SigningKey] = {}
        self._current = self._follow(trust.current())

    def _follow(self, trust: Trust) -> SigningKey:
        rotation = trust.rotation
        epoch = rotation.epoch if rotation else 0
        if epoch != self._epoch:
            self._keys = self._files.load()
            self._current = self._pick(rotation)
            self._epoch = epoch
        return self._current

    def _pick(self, rotation: OwnRotation | None) -> SigningKey:
        if rotation is None:
            return load_signing_key(self._files.current)
        key = self._keys.get(rotation.key.kid)
        if key is None:
            expected = rotation.key.fingerprint
            raise KeyFileError(
                f"{self._files.current} is not {expected}, which this node rotated to; restore that file"
            )
        return key

    @property
    def current(self) -> SigningKey:
        """The key that this node is known by now; raises `KeyFileError` when its file is gone."""
        return self._follow(self._trust.current())

    def signer_for(self, audience: str, /) -> SigningKey:
        """Return the key that `audience` knows: the former one until it acknowledged the latest."""
        trust = self._trust.current()
        current = self._follow(trust)
        rotation, peer = trust.rotation, trust.find(audience)
        if rotation is None or peer is None or peer.acknowledged >= rotation.epoch:
            return current
        return self._keys.get(rotation.former.kid, current)

    def public_keys(self, now_s: float, /) -> tuple[PublicKey, ...]:
        """Return what an IDENTITY shows: the current key, and the former one in its overlap."""
        rotation = self._trust.current().rotation
        former = (rotation.former,) if rotation is not None and now_s < rotation.retires_at else ()
        return (self.current.public, *former)

    def keyring(self) -> Keyring:
        """Return all that were ever ours with their ends: for what we signed ourselves and kept."""
        mine = self._files.instance
        former = (OwnedKey(mine, each.former, each.retires_at) for each in self._trust.current().rotations)
        return Keyring((*former, OwnedKey(mine, self.current.public)))


def rotate(files: KeyFiles, store: RotationStore, keys: OwnKeys, now_s: int, overlap_s: int) -> OwnRotation:
    """Begin a rotation; in force when this returns, with the node running or not.

    What an interrupted one left is finished first. Raises `RotationOpen` while peers have yet to hear of the one
    before, and `KeyFileError`.
    """
    if before := store.latest():
        files.settle(before)
    store.check_closed()
    rotation = store.begin(keys.current.public, files.prepare().public, now_s, overlap_s)
    files.settle(rotation)
    return rotation
