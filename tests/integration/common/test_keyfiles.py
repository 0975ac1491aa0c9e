from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa, x25519
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from common.keyfiles import (
    KeyFileError,
    create_signing_key,
    create_token,
    load_signing_key,
    load_token,
    read_private,
    read_public_key,
    write_private,
)
from common.keyring import KeyRefused
from tests.envelopes import SPOKE_KEY, key_of

PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes([7]) * 32)
PEM = PRIVATE.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.fixture
def umask() -> Iterator[Callable[[int], object]]:
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def private_file(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    path.chmod(0o600)
    return path


# --- making -----------------------------------------------------------------------------------------------


def test_a_key_is_read_back_as_it_was_made(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "build-1.key"
    made = create_signing_key(path)
    loaded = load_signing_key(path)
    assert loaded.kid == made.kid
    made.public.verify(loaded.sign(b"message"), b"message")
    assert path.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----\n")


def test_a_token_is_read_back_and_every_one_is_another(tmp_path: Path) -> None:
    tokens = [create_token(tmp_path / name) for name in ("a", "b")]
    assert tokens == [load_token(tmp_path / name) for name in ("a", "b")]
    assert tokens[0] != tokens[1]
    assert all(len(token) == 43 for token in tokens)


@pytest.mark.attack(62)
@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077, 0o277, 0o777], ids=oct)
def test_only_the_owner_can_read_what_is_made_whatever_the_umask(
    mask: int, tmp_path: Path, umask: Callable[[int], object]
) -> None:
    umask(mask)
    create_signing_key(tmp_path / "key")
    create_token(tmp_path / "token")
    assert mode_of(tmp_path / "key") == mode_of(tmp_path / "token") == 0o600
    load_signing_key(tmp_path / "key")
    load_token(tmp_path / "token")


def test_directories_made_on_the_way_are_the_owners(tmp_path: Path, umask: Callable[[int], object]) -> None:
    umask(0)
    create_token(tmp_path / "keys" / "token")
    assert mode_of(tmp_path / "keys") == 0o700


@pytest.mark.attack(62)
@pytest.mark.parametrize("make", [create_signing_key, create_token])
@pytest.mark.parametrize("present", ["file", "link to nothing", "directory"])
def test_nothing_is_overwritten(make: Callable[[Path], object], present: str, tmp_path: Path) -> None:
    path, elsewhere = tmp_path / "node.key", tmp_path / "elsewhere"
    if present == "file":
        path.write_text("mine")
    elif present == "directory":
        path.mkdir()
    else:
        path.symlink_to(elsewhere)
    with pytest.raises(KeyFileError, match="exists already"):
        make(path)
    assert not elsewhere.exists()
    assert present != "file" or path.read_text() == "mine"


def test_a_parent_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("")
    with pytest.raises(KeyFileError, match=r"keys exists already"):
        create_token(tmp_path / "keys" / "token")


def test_a_place_that_cannot_be_written_is_named() -> None:
    with pytest.raises(KeyFileError, match="cannot write /proc/nothing/token"):
        create_token(Path("/proc/nothing/token"))


FULL = """
import resource, sys
from pathlib import Path
from common.keyfiles import KeyFileError, write_private
before = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
try:
    write_private(Path(sys.argv[1]), bytes(100))
except KeyFileError as error:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    sys.exit(error.message)
"""


@pytest.mark.fault(29)
def test_a_full_disk_leaves_no_half_key(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    done = subprocess.run([sys.executable, "-c", FULL, path], capture_output=True, text=True, check=False)
    assert f"cannot write {path}" in done.stderr
    assert not path.exists()
    write_private(path, b"whole")


# --- refusing ---------------------------------------------------------------------------------------------


@pytest.mark.attack(62)
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o610, 0o601, 0o620, 0o666, 0o777], ids=oct)
@pytest.mark.parametrize("load", [load_signing_key, load_token])
def test_a_file_that_others_can_touch_is_refused_with_the_command_that_mends_it(
    load: Callable[[Path], object], mode: int, tmp_path: Path
) -> None:
    path = private_file(tmp_path / "node.key", PEM)
    path.chmod(mode)
    with pytest.raises(KeyFileError, match=f"chmod 600 {path}") as refused:
        load(path)
    assert refused.value.code == "key_file"
    assert PEM.decode()[30:60] not in str(refused.value)


def _link(path: Path) -> None:
    private_file(path.with_suffix(".real"), PEM)
    path.symlink_to(path.with_suffix(".real"))


def _fifo(path: Path) -> None:
    os.mkfifo(path, 0o600)


def _directory(path: Path) -> None:
    path.mkdir(0o700)


def _nothing(path: Path) -> None:
    pass


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


NO_FILES: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing": (_nothing, "No such file"),
    "symlink": (_link, "no link"),
    "symlink to a device": (_device, "no link"),
    "FIFO": (_fifo, "not a regular file"),
    "directory": (_directory, "not a regular file"),
}


@pytest.mark.attack(62)
@pytest.mark.parametrize(("make", "message"), NO_FILES.values(), ids=NO_FILES)
def test_only_a_regular_file_is_read(make: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    make(tmp_path / "node.key")
    with pytest.raises(KeyFileError, match=message):
        load_signing_key(tmp_path / "node.key")


def _file_of_another_user(path: Path) -> Path:
    if os.geteuid() != 0:
        return Path("/etc/passwd")
    os.chown(private_file(path, PEM), 65_534, 65_534)
    return path


@pytest.mark.attack(62)
def test_a_file_of_another_user_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match=f"chown {os.geteuid()}"):
        load_signing_key(_file_of_another_user(tmp_path / "node.key"))


def pem(key: object, *, password: bytes | None = None, form: PrivateFormat = PrivateFormat.PKCS8) -> bytes:
    encryption = BestAvailableEncryption(password) if password else NoEncryption()
    written: bytes = key.private_bytes(Encoding.PEM, form, encryption)  # type: ignore[attr-defined]  # any private key
    return written


WRONG_KEYS: dict[str, bytes] = {
    "RSA": pem(rsa.generate_private_key(65537, 2048)),
    "EC": pem(ec.generate_private_key(ec.SECP256R1())),
    "Ed448": pem(ed448.Ed448PrivateKey.generate()),
    "X25519": pem(x25519.X25519PrivateKey.generate()),
    "encrypted": pem(PRIVATE, password=b"secret"),
    "public": PRIVATE.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    "OpenSSH": pem(PRIVATE, form=PrivateFormat.OpenSSH),
    "DER": PRIVATE.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
    "raw": bytes([7]) * 32,
    "truncated": PEM[:-30],
    "without its end": PEM.partition(b"-----END")[0],
    "damaged": PEM.replace(PEM[40:44], b"AAAA"),
    "empty": b"",
    "noise": bytes(range(256)),
}


@pytest.mark.attack(62)
@pytest.mark.parametrize("content", WRONG_KEYS.values(), ids=WRONG_KEYS)
def test_only_an_ed25519_key_in_pkcs8_is_a_signing_key(content: bytes, tmp_path: Path) -> None:
    path = private_file(tmp_path / "node.key", content)
    with pytest.raises(KeyFileError, match="restore") as refused:
        load_signing_key(path)
    assert str(path) in refused.value.message
    assert "\n" not in refused.value.message


@pytest.mark.attack(62)
def test_a_file_too_large_for_a_key_is_not_read_whole(tmp_path: Path) -> None:
    path = private_file(tmp_path / "node.key", b"")
    os.truncate(path, 10 * 1024**3)
    with pytest.raises(KeyFileError, match="too large"):
        read_private(path)


def test_a_file_of_the_largest_size_is_read(tmp_path: Path) -> None:
    assert len(read_private(private_file(tmp_path / "x", bytes(16 * 1024)))) == 16 * 1024


@pytest.mark.attack(62)
@pytest.mark.parametrize("content", [b"", b"\n", b"short\n", b"x" * 31, b" " * 100])
def test_a_token_too_short_is_refused(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="no token"):
        load_token(private_file(tmp_path / "token", content))


# --- public keys of others --------------------------------------------------------------------------------

PUBLIC_PEM = PRIVATE.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
JWK = json.dumps(SPOKE_KEY.public.to_jwk()).encode()


def test_a_public_key_is_read_as_pem_and_as_jwk(tmp_path: Path) -> None:
    (tmp_path / "pem").write_bytes(PUBLIC_PEM)
    (tmp_path / "jwk").write_bytes(JWK)
    assert read_public_key(tmp_path / "pem") == key_of(7).public
    assert read_public_key(tmp_path / "jwk") == SPOKE_KEY.public


SPKI_ED25519 = bytes.fromhex("302a300506032b6570032100")


def spki(raw: bytes) -> bytes:
    from base64 import b64encode

    return b"-----BEGIN PUBLIC KEY-----\n" + b64encode(SPKI_ED25519 + raw) + b"\n-----END PUBLIC KEY-----\n"


REFUSED_PUBLIC: dict[str, bytes] = {
    "private PEM": PEM,
    "private OpenSSH": pem(PRIVATE, form=PrivateFormat.OpenSSH),
    "private JWK": json.dumps({**SPOKE_KEY.public.to_jwk(), "d": "AA"}).encode(),
    "RSA": rsa.generate_private_key(65537, 2048)
    .public_key()
    .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    "EC JWK": b'{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}',
    "low-order PEM": spki((1).to_bytes(32, "little")),
    "non-canonical PEM": spki((2**255 - 16).to_bytes(32, "little")),
    "truncated PEM": PUBLIC_PEM[:-40],
    "certificate": b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    "empty": b"",
    "noise": bytes(range(256)),
    "too large": JWK + b" " * 20_000 + b"x",
}


@pytest.mark.attack(16)
@pytest.mark.attack(62)
@pytest.mark.parametrize("content", REFUSED_PUBLIC.values(), ids=REFUSED_PUBLIC)
def test_only_a_sound_public_key_is_registered(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "peer").write_bytes(content)
    with pytest.raises(KeyRefused) as refused:
        read_public_key(tmp_path / "peer")
    assert refused.value.code == "key_refused"


@pytest.mark.parametrize("name", ["missing", ""])
def test_a_public_key_that_cannot_be_read_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match=str(tmp_path / name)):
        read_public_key(tmp_path / name)
