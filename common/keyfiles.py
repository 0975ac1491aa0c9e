"""Key and token files: made so that only their owner can read them, and refused when others can (attack row 62).

Private keys are PKCS#8 PEM, tokens one line of text, both with mode 0600, created and never overwritten. A file that
is a symlink, not regular, readable by group or others, or not ours is refused with the command that mends it.
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from common.errors import LocalError
from common.keyring import KeyRefused, PublicKey, SigningKey, parse_public_jwk

_MAX_FILE_BYTES: Final = 16 * 1024
_STDIN: Final = Path("-")
_TOKEN_BYTES: Final = 32


class KeyFileError(LocalError):
    """A key or token file that cannot be used as it is."""

    code = "key_file"


def _refuse_exposed(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise KeyFileError(f"{path} is not a regular file; put the key itself there")
    if status.st_uid != os.geteuid():
        raise KeyFileError(f"{path} belongs to another user; run: chown {os.geteuid()} {path}")
    if status.st_mode & 0o077:
        raise KeyFileError(f"{path} can be read by others; run: chmod 600 {path}, and replace the key if they did")


def read_private(path: Path) -> bytes:
    """Read a private file of at most 16 KiB; raises `KeyFileError` for an exposed, missing or oversized one."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise KeyFileError(f"cannot open {path}: {error.strerror}; it must be a file of this user, no link") from error
    try:
        _refuse_exposed(path, os.fstat(descriptor))
        content = os.read(descriptor, _MAX_FILE_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(content) > _MAX_FILE_BYTES:
        raise KeyFileError(f"{path} is too large for a key; put the key itself there")
    return content


def write_private(path: Path, content: bytes) -> None:
    """Create `path` with mode 0600 durably; raises `KeyFileError` when it exists already or cannot be made."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise KeyFileError(f"{error.filename} exists already and is not overwritten; move it away first") from error
    except OSError as error:
        raise KeyFileError(f"cannot write {path}: {error.strerror}") from error
    try:
        _fill(descriptor, content)
        _sync_directory(path.parent)
    except OSError as error:
        # Half a key would only stand in the way of a whole one.
        path.unlink(missing_ok=True)
        raise KeyFileError(f"cannot write {path}: {error.strerror}") from error


def _fill(descriptor: int, content: bytes) -> None:
    with os.fdopen(descriptor, "wb") as file:
        # The umask may have taken bits that the owner needs.
        os.fchmod(descriptor, 0o600)
        file.write(content)
        file.flush()
        os.fsync(descriptor)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def create_signing_key(path: Path) -> SigningKey:
    """Make a new Ed25519 key and write it as PKCS#8 PEM."""
    key = Ed25519PrivateKey.generate()
    write_private(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return SigningKey(key)


def load_signing_key(path: Path) -> SigningKey:
    """Read a PKCS#8 PEM key; raises `KeyFileError` for anything but an Ed25519 key that only we can read."""
    content = read_private(path)
    try:
        key = load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyFileError(f"{path} holds no unencrypted PKCS#8 private key; restore it from its backup") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFileError(f"{path} is no Ed25519 key; restore the right file")
    return SigningKey(key)


def read_public_key(path: Path) -> PublicKey:
    """Read a peer's public key, PEM or JWK, from a file, or from stdin for `-`; raises `KeyFileError`, `KeyRefused`."""
    try:
        with (Path("/dev/stdin") if path == _STDIN else path).open("rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise KeyFileError(f"cannot read {path}: {error.strerror}") from error
    if len(content) > _MAX_FILE_BYTES:
        raise KeyRefused(f"{path} is too large for a key")
    if b"PRIVATE KEY" in content:
        raise KeyRefused(f"{path} is a private key; register the public one")
    if b"BEGIN PUBLIC KEY" not in content:
        return parse_public_jwk(content)
    try:
        key = load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyRefused(f"{path} holds no PEM public key") from error
    if not isinstance(key, Ed25519PublicKey):
        raise KeyRefused(f"{path} is no Ed25519 key")
    return PublicKey(key.public_bytes_raw())


def create_token(path: Path) -> str:
    """Make a bearer token of 32 random bytes and write it."""
    token = secrets.token_urlsafe(_TOKEN_BYTES)
    write_private(path, token.encode() + b"\n")
    return token


def load_token(path: Path) -> str:
    """Read a bearer token; raises `KeyFileError` for a file that others can read, or an empty one."""
    token = read_private(path).decode("ascii", "replace").strip()
    if len(token) < _TOKEN_BYTES:
        raise KeyFileError(f"{path} holds no token of at least {_TOKEN_BYTES} characters; delete it and make a new one")
    return token
