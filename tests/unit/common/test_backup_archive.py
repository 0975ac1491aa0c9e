"""The form of a backup: what is written is read, and anything else is refused before it could do anything."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.backup_archive import (
    MANIFEST,
    Archive,
    ArchiveWriter,
    BackupRefused,
    Content,
    Manifest,
    is_storable,
)

FILES = {"hub.toml": b"[node]\n", "keys/hub-eu.key": b"k" * 700, "empty": b""}
TOLD = Manifest("hub", "hub-eu", "SHA256:x", "2026-11-26T08:00:00.000Z", "0.1.0", valkey=True, files={})


def written(files: dict[str, bytes], change: Callable[[Manifest], Manifest] = lambda manifest: manifest) -> bytes:
    """An archive of these files; `change` makes its manifest say something else."""
    file = io.BytesIO()
    writer = ArchiveWriter(file)
    for name, content in files.items():
        writer.add(name, len(content), io.BytesIO(content))
    writer.finish(change(replace(TOLD, files=writer.files)))
    return file.getvalue()


GOOD = written(FILES)


def content_of(archive: Archive, name: str) -> bytes:
    content = bytearray()
    archive.extract(name, content.extend)
    return bytes(content)


def refused(raw: bytes) -> str:
    with pytest.raises(BackupRefused) as caught:
        Archive(io.BytesIO(raw))
    assert caught.value.code == "backup"
    return caught.value.message


def test_what_is_written_is_read() -> None:
    archive = Archive(io.BytesIO(GOOD))
    assert {name: content_of(archive, name) for name in archive.manifest.files} == FILES
    assert replace(archive.manifest, files={}) == TOLD
    assert archive.manifest.size == 707
    with tarfile.open(fileobj=io.BytesIO(GOOD)) as tar:
        assert tar.getnames() == [*FILES, MANIFEST], "any tar lists it"


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_a_changed_byte_is_refused_or_changes_nothing(place: int, change: int) -> None:
    raw = bytearray(GOOD)
    raw[place] ^= change
    try:
        archive = Archive(io.BytesIO(bytes(raw)))
    except BackupRefused:
        return
    assert {name: content_of(archive, name) for name in archive.manifest.files} == FILES


@given(st.binary(max_size=2000))
def test_anything_else_is_refused(raw: bytes) -> None:
    refused(raw)


@given(st.integers(0, len(GOOD) - 1))
def test_one_that_was_cut_is_refused(length: int) -> None:
    refused(GOOD[:length])


def test_what_follows_the_end_is_refused() -> None:
    assert "follows its end" in refused(GOOD + b"x")


def of_tar(*members: tarfile.TarInfo, form: int = tarfile.GNU_FORMAT) -> bytes:
    """What another program would make of these members."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(bytes(member.size)))
    return file.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, "/etc/passwd" if kind != tarfile.REGTYPE else "", size
    return info


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(of_tar(member("../hub.toml")), id="up"),
        pytest.param(of_tar(member("keys/../../x")), id="up in the middle"),
        pytest.param(of_tar(member("/etc/cron.d/x")), id="absolute"),
        pytest.param(of_tar(member(".ssh/authorized_keys")), id="hidden"),
        pytest.param(of_tar(member("a//b")), id="an empty name"),
        pytest.param(of_tar(member("a\nb")), id="control character"),
        pytest.param(of_tar(member("keys", tarfile.SYMTYPE)), id="symbolic link"),
        pytest.param(of_tar(member("keys", tarfile.LNKTYPE)), id="hard link"),
        pytest.param(of_tar(member("keys", tarfile.CHRTYPE)), id="device"),
        pytest.param(of_tar(member("keys", tarfile.FIFOTYPE)), id="fifo"),
        pytest.param(of_tar(member("keys", tarfile.DIRTYPE)), id="directory"),
        pytest.param(of_tar(member("x" * 200)), id="GNU long name"),
        pytest.param(of_tar(member("x" * 200), form=tarfile.PAX_FORMAT), id="extended header"),
    ],
)
def test_what_no_backup_holds_is_refused_at_its_header(raw: bytes) -> None:
    assert "holds what no backup does" in refused(raw)


def test_a_name_that_is_no_ascii_is_refused() -> None:
    assert "damaged" in refused(of_tar(member("ä"), form=tarfile.USTAR_FORMAT))


def test_a_size_that_is_not_there_is_refused_without_making_room_for_it() -> None:
    header = member("valkey.rdb", size=1 << 50).tobuf(tarfile.GNU_FORMAT)
    assert "was cut" in refused(header + bytes(4096))
    negative = bytearray(header)
    negative[124:136] = b"\xff" * 12
    negative[148:156] = b"%06o\0 " % (256 + sum(negative[:148]) + sum(negative[156:512]))
    assert "holds what no backup does" in refused(bytes(negative))


def test_a_file_twice_is_refused() -> None:
    header = member("a").tobuf(tarfile.GNU_FORMAT)
    assert "twice" in refused(header + header)


def test_more_files_than_any_node_has_are_refused() -> None:
    headers = b"".join(member(f"f{number}").tobuf(tarfile.GNU_FORMAT) for number in range(10_002))
    assert "end is missing" in refused(headers)


@pytest.mark.parametrize(
    "files",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"hub.toml": Content(7, "0" * 64)}, id="another content"),
        pytest.param({"other": Content(0, "")}, id="another file"),
    ],
)
def test_what_the_manifest_does_not_say_is_refused(files: dict[str, Content]) -> None:
    raw = written({"hub.toml": b"[node]\n"}, lambda manifest: replace(manifest, files=files))
    assert "not what the manifest says" in refused(raw)


def of_manifest(content: bytes) -> bytes:
    info = member(MANIFEST, size=len(content))
    return info.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512) + bytes(1024)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"[]", "cannot be read"),
        (b"{}", "cannot be read"),
        (b"\xff", "cannot be read"),
        (b"[" * 100_000, "cannot be read"),
        (TOLD.encode().replace(b'"format": 1', b'"format": 2'), "newer version"),
        (TOLD.encode().replace(b'"hub-eu"', b"7"), "says what none does"),
        (TOLD.encode().replace(b'"format"', b'"more": 1, "format"'), "says what none does"),
        (TOLD.encode().replace(b'"files": {}', b'"files": {"a": 1}'), "cannot be read"),
    ],
)
def test_a_manifest_that_is_none(content: bytes, why: str) -> None:
    assert why in refused(of_manifest(content))


def test_a_manifest_too_large_to_be_one_is_not_read() -> None:
    assert "too large" in refused(of_manifest(bytes(5 * 1024 * 1024)))


def test_bytes_between_files_are_refused() -> None:
    raw = bytearray(GOOD)
    raw[512 + 7] = 1
    assert "between its files" in refused(bytes(raw))


def test_a_file_that_changes_while_it_is_restored_is_noticed() -> None:
    file = io.BytesIO(GOOD)
    archive = Archive(file)
    file.seek(512)
    file.write(b"X")
    with pytest.raises(BackupRefused, match="was changed"):
        content_of(archive, "hub.toml")


def test_a_file_that_is_cut_while_it_is_backed_up_is_noticed() -> None:
    with pytest.raises(BackupRefused, match="make the backup again"):
        ArchiveWriter(io.BytesIO()).add("audit.head", 10, io.BytesIO(b"short"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [("hub.toml", True), ("audit/audit-000000000007.jsonl", True), ("a b", False), ("x" * 101, False), ("..", False)],
)
def test_names(name: str, expected: bool) -> None:
    assert is_storable(name) is expected
