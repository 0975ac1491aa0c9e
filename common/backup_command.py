"""`backup` and `restore`, the same for `hub` and `spoke`: where an archive lies, and what is told of it."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from common.audit_file import Audit
from common.backup_archive import Archive, BackupRefused, Manifest
from common.command_line import Output, print_line, safe
from common.keyfiles import create_token
from common.own_keys import KeyFiles, OwnKeys
from common.restoring import check_free, restore, seekable
from common.trust_store import TrustStore

PIPE: Final = "-"


async def back_up(where: str, write: Callable[[BinaryIO], Awaitable[Manifest]], output: Output) -> None:
    """Write a backup to the new file `where`, or with `-` to stdout, and print what is in it."""
    if where == PIPE:
        if sys.stdout.isatty():
            raise BackupRefused("a backup holds private keys and is nothing to look at: name a file, or a pipe")
        await write(sys.stdout.buffer)
        return
    with _new_file(Path(where)) as file:
        manifest = await write(file)
    output.facts({"file": where, **facts_of(manifest)})


def facts_of(manifest: Manifest) -> dict[str, Any]:
    """Return what is told of a backup."""
    return {
        manifest.kind: manifest.node,
        "fingerprint": manifest.fingerprint,
        "madeAt": manifest.made_at,
        "version": manifest.version,
        "files": len(manifest.files),
        "bytes": manifest.size,
        "valkey": manifest.valkey,
    }


@contextmanager
def _new_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a file that only its owner can read, and that has its name when it is whole and on the disk."""
    # mkstemp makes it 0600 and never takes one that is there.
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(descriptor)
        os.link(temporary, path)
    except FileExistsError as error:
        raise BackupRefused(f"{path} exists already and is not overwritten; name another file") from error
    finally:
        with suppress(OSError):
            Path(temporary).unlink()


@dataclass(frozen=True, slots=True)
class Restoring:
    """What is to become of a backup: a node of `kind` in `target`, by what its operator said on the command line.

    `revive` opens the node in the directory it is given, decides what counts again, and returns the names of that.
    """

    kind: str
    target: Path
    only_check: bool
    revive: Callable[[Path, Manifest], Mapping[str, Sequence[str]]]


def bring_back(where: str, wanted: Restoring, output: Output) -> None:
    """Check the backup `where`, restore it unless only that was asked, and print what is in force then."""
    if not wanted.only_check:
        check_free(wanted.target)
    with _opened(where) as raw, seekable(raw, wanted.target) as file:
        archive = Archive(file)
        manifest = archive.manifest
        if manifest.kind != wanted.kind:
            raise BackupRefused(f"it is the backup of a {manifest.kind}; run: {manifest.kind} restore")
        counts: dict[str, Sequence[str]] = {}
        if not wanted.only_check:
            restore(archive, wanted.target, lambda staging: counts.update(wanted.revive(staging, manifest)))
    if output.json:
        output.facts({**facts_of(manifest), **counts, "directory": None if wanted.only_check else str(wanted.target)})
        return
    output.facts(facts_of(manifest))
    if wanted.only_check:
        print_line("The backup is whole.")
        return
    for what, names in counts.items():
        print_line(f"{what} in force again: {safe(', '.join(names)) or 'none'}")
    print_line(
        f"\nRestored as of {safe(manifest.made_at)} into {safe(wanted.target)}. What was revoked since counts again:\n"
        f"revoke it once more before the start. Next: {wanted.kind} serve"
    )


@contextmanager
def _opened(where: str) -> Iterator[BinaryIO]:
    if where == PIPE:
        yield sys.stdin.buffer
        return
    with Path(where).open("rb") as file:
        yield file


def settle(trust: TrustStore, keys: KeyFiles, audit: Audit, manifest: Manifest, *, distrust: bool) -> list[str]:
    """Prove that keys and trust of a restored node are those of its backup, and say so in its audit.

    With `distrust` no peer counts until it is resumed. Returns the ids of those that do. Raises `BackupRefused`,
    `KeyFileError`, `AuditUnavailable`.
    """
    if OwnKeys(keys, trust).current.public.fingerprint != manifest.fingerprint or keys.instance != manifest.node:
        raise BackupRefused("it is not the node that its manifest says")
    audit.tell("backup.restored", {"made_at": manifest.made_at, "distrust": distrust})
    active = [peer.instance for peer in trust.current().peers() if peer.state == "active"]
    if not distrust:
        return active
    for instance in active:
        trust.set_state(instance, "suspended")
    return []


def renew_token(path: Path) -> None:
    """Make a new token in the place of one that may be known to others."""
    path.unlink()
    create_token(path)
