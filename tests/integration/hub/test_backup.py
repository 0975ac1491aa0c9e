"""`hub backup` and `hub restore` on a hub that does not run: what is refused, what is told, and that nothing stays."""

from __future__ import annotations

import io
import json
import os
import pty
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from common import restoring, trust_tables
from common.backup_archive import Archive, ArchiveWriter, BackupRefused, Manifest
from common.directory import backing_up
from common.keyring import PublicKey
from common.own_keys import OwnKeys
from common.rotation_store import RotationStore
from common.trust_store import NewPeer, TrustStore
from hub.settings import HubDirectory
from hub.setup import set_up
from tests.envelopes import key_of
from tests.integration.hub.hub_node import HUB, Done, run_hub
from tests.spoke_node import run_in_process


@pytest.fixture
def place(tmp_path: Path) -> HubDirectory:
    """A hub that was set up and never ran."""
    place = HubDirectory(tmp_path / "hub-eu")
    set_up(place, "hub-eu", "127.0.0.1:0", None)
    return place


def at(place: HubDirectory, *arguments: str) -> Done:
    """Run a command on its directory."""
    return run_hub("--dir", str(place.path), *arguments)


@pytest.fixture
def archive(place: HubDirectory, tmp_path: Path) -> Path:
    """A backup of it."""
    path = tmp_path / "hub.tar"
    done = at(place, "backup", str(path))
    assert done.returncode == 0, done.stderr
    return path


def refused(done: Done) -> str:
    """The code of the one line on stderr."""
    (line,) = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (1, "")
    return line.split()[1].rstrip(":")


def rewritten(archive: Path, change: Callable[[str, bytes], bytes], **told: Any) -> Path:
    """The archive with other contents under a manifest that fits, or that says something else."""
    with archive.open("rb") as file:
        read, target = Archive(file), archive.with_suffix(".other")
        with target.open("wb") as other:
            writer = ArchiveWriter(other)
            for name in read.manifest.files:
                content = bytearray()
                read.extract(name, content.extend)
                changed = change(name, bytes(content))
                writer.add(name, len(changed), io.BytesIO(changed))
            members = {name: getattr(read.manifest, name) for name in Manifest.__slots__ if name != "files"}
            writer.finish(Manifest(**{**members, **told}, files=writer.files))
    return target


def same(_name: str, content: bytes) -> bytes:
    return content


def test_everything_that_makes_the_hub_comes_back(place: HubDirectory, tmp_path: Path) -> None:
    place.path.joinpath("tls").mkdir()
    place.path.joinpath("tls/hub.crt").write_text("certificate")
    place.path.joinpath("tls/hub.key").write_text("key")
    with place.settings_file.open("a") as file:
        file.write('\n[tls]\ncertificate = "tls/hub.crt"\nkey = "tls/hub.key"\nca = "/etc/ssl/company.crt"\n')
    at(place, "token", "create", "ci", "--scope", "read")
    archive, new = tmp_path / "hub.tar", HubDirectory(tmp_path / "below" / "new")
    made = at(place, "backup", str(archive))
    assert "fingerprint  SHA256:" in made.stdout
    done = at(new, "restore", str(archive))
    assert done.returncode == 0, done.stderr
    assert "tokens in force again: ci\n" in done.stdout
    assert "What was revoked since counts again" in done.stdout
    for name in ("hub.toml", "keys/hub-eu.key", "admin.token", "tls/hub.crt", "tls/hub.key"):
        assert (new.path / name).read_bytes() == (place.path / name).read_bytes()
        assert (new.path / name).stat().st_mode & 0o777 == 0o600
    assert new.path.stat().st_mode & 0o777 == 0o700
    assert json.loads(at(new, "token", "list", "--json").stdout)[0]["name"] == "ci"
    assert at(new, "audit", "verify").returncode == 0
    assert at(place, "audit", "show", "--event", "backup.made").stdout.count("\n") == 1


def test_through_pipes(place: HubDirectory, tmp_path: Path) -> None:
    new = tmp_path / "new"
    making = [str(HUB), "--dir", str(place.path), "backup", "-"]
    with subprocess.Popen(making, stdout=subprocess.PIPE) as made:
        command = [str(HUB), "--dir", str(new), "restore", "-", "--json"]
        restored = subprocess.run(command, stdin=made.stdout, check=True, capture_output=True, text=True)
    assert json.loads(restored.stdout)["directory"] == str(new)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["hub-eu", "new"]


def test_a_terminal_gets_no_keys(place: HubDirectory) -> None:
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run(
            [str(HUB), "--dir", str(place.path), "backup", "-"], stdout=theirs, stderr=subprocess.PIPE, check=False
        )
    finally:
        os.close(theirs)
        os.close(ours)
    assert (done.returncode, done.stderr.startswith(b"error: backup: ")) == (1, True)


def test_check_says_of_what_a_backup_is_and_writes_nothing(archive: Path, tmp_path: Path) -> None:
    new = HubDirectory(tmp_path / "new")
    done = at(new, "restore", "--check", str(archive))
    assert (done.returncode, "hub-eu" in done.stdout, "The backup is whole." in done.stdout) == (0, True, True)
    assert json.loads(at(new, "restore", "--check", str(archive), "--json").stdout)["directory"] is None
    assert not new.path.exists()


def test_a_file_that_is_there_is_not_overwritten(place: HubDirectory, archive: Path) -> None:
    before = archive.read_bytes()
    assert refused(at(place, "backup", str(archive))) == "backup"
    assert archive.read_bytes() == before
    assert refused(at(place, "backup", str(archive.parent / "none" / "x.tar"))) == "system"
    assert sorted(each.name for each in archive.parent.iterdir()) == ["hub-eu", "hub.tar"]


def test_one_backup_at_a_time(place: HubDirectory, archive: Path, tmp_path: Path) -> None:
    with backing_up(place.path):
        assert refused(at(place, "backup", str(tmp_path / "second.tar"))) == "backup_running"
    assert not (tmp_path / "second.tar").exists()


def test_no_directory_in_use_is_touched(place: HubDirectory, archive: Path, tmp_path: Path) -> None:
    link, file = HubDirectory(tmp_path / "link"), HubDirectory(tmp_path / "file")
    link.path.symlink_to(tmp_path / "elsewhere")
    file.path.write_text("mine")
    for taken in (place, link, file):
        assert refused(at(taken, "restore", str(archive))) == "backup"
    empty = HubDirectory(tmp_path / "empty")
    empty.path.mkdir()
    assert at(empty, "restore", str(archive)).returncode == 0
    assert not (tmp_path / "elsewhere").exists()


def test_a_directory_that_is_taken_meanwhile_is_not_touched(archive: Path, tmp_path: Path) -> None:
    target = tmp_path / "new"

    def take(_staging: Path) -> None:
        target.mkdir()
        target.joinpath("mine").touch()

    with archive.open("rb") as file, pytest.raises(BackupRefused, match="by now"):
        restoring.restore(Archive(file), target, take)
    assert [each.name for each in target.iterdir()] == ["mine"]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["hub-eu", "hub.tar", "new"]


def test_what_the_disk_refuses_is_told_as_it_is(archive: Path, tmp_path: Path) -> None:
    def lose(staging: Path) -> None:
        staging.rename(tmp_path / "lost")

    with archive.open("rb") as file, pytest.raises(FileNotFoundError):
        restoring.restore(Archive(file), tmp_path / "new", lose)


def test_the_backup_of_a_spoke_makes_no_hub(tmp_path: Path) -> None:
    directory, archive = tmp_path / "build-1", tmp_path / "spoke.tar"
    run_in_process(directory, "init", "build-1", "--listen", "127.0.0.1:0")
    run_in_process(directory, "backup", str(archive))
    assert refused(at(HubDirectory(tmp_path / "new"), "restore", str(archive))) == "backup"
    run_in_process(tmp_path / "again", "restore", str(archive), "--distrust")
    tokens = {(tmp_path / name / "local.token").read_text() for name in ("build-1", "again")}
    assert len(tokens) == 2


DAMAGES: dict[str, tuple[Callable[[str, bytes], bytes], dict[str, Any], str]] = {
    "another node": (same, {"node": "hub-us"}, "backup"),
    "another key": (same, {"fingerprint": "SHA256:other"}, "backup"),
    "no database": (lambda name, was: b"x" * 4096 if name == "trust.db" else was, {}, "trust_store"),
    "half a database": (lambda name, was: was[:-8192] if name == "trust.db" else was, {}, "trust_store"),
    "a page of it": (
        lambda name, was: was[:8192] + b"\xff" * 64 + was[8256:] if name == "trust.db" else was,
        {},
        "backup",
    ),
    "its free pages": (lambda name, was: was[:39] + b"\x01" + was[40:] if name == "trust.db" else was, {}, "backup"),
    "no configuration": (lambda name, was: b"[" if name == "hub.toml" else was, {}, "config"),
    "no key": (lambda name, was: b"" if name.endswith(".key") else was, {}, "key_file"),
}


@pytest.mark.parametrize(("change", "told", "code"), DAMAGES.values(), ids=DAMAGES)
def test_what_makes_no_hub_leaves_nothing(
    archive: Path, tmp_path: Path, change: Callable[[str, bytes], bytes], told: dict[str, Any], code: str
) -> None:
    other = rewritten(archive, change, **told)
    assert refused(at(HubDirectory(tmp_path / "new"), "restore", str(other))) == code
    assert sorted(each.name for each in tmp_path.iterdir()) == ["hub-eu", "hub.other", "hub.tar"]


def test_a_number_of_a_connection_is_not_used_again(place: HubDirectory, tmp_path: Path) -> None:
    def add(directory: HubDirectory, instance: str, key: PublicKey) -> int:
        with closing(TrustStore(directory.trust_file, "hub-eu", key_of(9).public)) as store:
            return store.add(NewPeer(instance, "spoke", key, None, {}), "active", 0).connection

    assert add(place, "build-1", key_of(1).public) == 1
    archive, new = tmp_path / "hub.tar", HubDirectory(tmp_path / "new")
    assert at(place, "backup", str(archive)).returncode == 0
    since = add(place, "build-2", key_of(2).public)
    assert at(new, "restore", str(archive)).returncode == 0
    assert add(new, "build-3", key_of(3).public) > since


def test_in_the_middle_of_a_rotation_keys_and_trust_agree(place: HubDirectory, tmp_path: Path) -> None:
    archive, new = tmp_path / "hub.tar", HubDirectory(tmp_path / "new")
    files = place.key_files("hub-eu")
    with closing(TrustStore(place.trust_file, "hub-eu", files.prepare().public)) as trust:
        former, following = OwnKeys(files, trust).current.public, files.prepare().public
        # Decided, and the files not yet renamed: the node was killed here.
        RotationStore(trust).begin(former, following, 0, 3600)
    assert at(place, "backup", str(archive)).returncode == 0
    done = at(new, "restore", str(archive), "--json")
    assert json.loads(done.stdout)["fingerprint"] == following.fingerprint
    assert json.loads(at(new, "keys", "show", "--json").stdout)["fingerprint"] == following.fingerprint


def test_a_trust_store_that_somebody_holds_is_waited_for_and_not_for_ever(
    place: HubDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at(place, "token", "list")
    monkeypatch.setattr(trust_tables, "_BUSY_TIMEOUT_S", 0.1)
    with closing(sqlite3.connect(place.trust_file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert refused(at(place, "backup", str(tmp_path / "hub.tar"))) == "backup"
    assert not (tmp_path / "hub.tar").exists()


def test_a_file_under_a_name_that_no_backup_has_is_told(place: HubDirectory, tmp_path: Path) -> None:
    for name in ("my hub.crt", "my hub.key"):
        (place.path / name).write_text("x")
    with place.settings_file.open("a") as file:
        file.write('\n[tls]\ncertificate = "my hub.crt"\nkey = "my hub.key"\n')
    assert refused(at(place, "backup", str(tmp_path / "hub.tar"))) == "backup"


def test_distrust_lets_nobody_in(place: HubDirectory, tmp_path: Path) -> None:
    archive, new = tmp_path / "hub.tar", HubDirectory(tmp_path / "new")
    at(place, "peer", "add", "build-1", "--key", str(_jwk(tmp_path)))
    at(place, "token", "create", "ci", "--scope", "admin")
    assert at(place, "backup", str(archive)).returncode == 0
    done = at(new, "restore", str(archive), "--distrust")
    assert "spokes in force again: none\ntokens in force again: none\n" in done.stdout
    assert json.loads(at(new, "peer", "list", "--json").stdout)[0]["state"] == "suspended"
    assert new.token_file.read_text() != place.token_file.read_text()


def _jwk(tmp_path: Path) -> Path:
    path = tmp_path / "build-1.jwk"
    path.write_text(json.dumps(key_of(1).public.to_jwk()))
    return path
