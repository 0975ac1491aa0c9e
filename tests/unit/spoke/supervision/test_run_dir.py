from __future__ import annotations

import json
from pathlib import Path

import pytest

from spoke.supervision import adoption
from spoke.supervision.run_dir import (
    Ending,
    KeeperRecord,
    KillRequest,
    LaunchSpec,
    Limits,
    Receipt,
    SignalSent,
    decode_ending,
    decode_keeper,
    decode_kill,
    decode_launch,
    encode_ending,
    encode_keeper,
    encode_kill,
    encode_launch,
    read_file,
    write_file,
)

AT = "2026-11-22T10:00:00.000Z"


def test_launch_round_trip() -> None:
    spec = LaunchSpec(
        argv=("agent", "\udcff"),
        cwd="/w",
        env={"A": "=\n", "\udcfe": ""},
        timeout_s=5.5,
        silence_s=1.0,
        grace_s=2.0,
        log_cap_bytes=77,
        limits=Limits(nofile=1, fsize_bytes=2, cpu_s=3, as_bytes=4, nproc=5),
    )
    assert decode_launch(encode_launch(spec, "token")) == (spec, "token")


def test_stdin_is_no_part_of_the_launch_record() -> None:
    spec = LaunchSpec(argv=("a",), cwd="/", env={}, timeout_s=1, stdin=b"secret prompt")
    record = encode_launch(spec, "token")
    assert b"secret" not in record
    assert decode_launch(record)[0].stdin == b""


ENDINGS = {
    "plain": Ending("exited", AT, started_at=AT, exit_code=0, log_bytes=5),
    "killed": Ending(
        "killed",
        AT,
        started_at=AT,
        kill_cause="killed_by_peer",
        signal="SIGKILL",
        log_bytes=1,
        log_dropped=2,
        detail="log: No space left on device",
        receipt=Receipt((SignalSent("SIGTERM", AT), SignalSent("SIGKILL", AT)), survivors=1),
    ),
    "lost": Ending("lost", AT),
}


@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS)
def test_ending_round_trip(ending: Ending) -> None:
    assert decode_ending(encode_ending(ending)) == ending


def test_ending_names_are_the_contract() -> None:
    assert json.loads(encode_ending(ENDINGS["killed"])) == {
        "cause": "killed",
        "killCause": "killed_by_peer",
        "exitCode": None,
        "signal": "SIGKILL",
        "startedAt": AT,
        "finishedAt": AT,
        "logBytes": 1,
        "logDropped": 2,
        "detail": "log: No space left on device",
        "receipt": {
            "signals": [{"signal": "SIGTERM", "at": AT}, {"signal": "SIGKILL", "at": AT}],
            "survivors": 1,
        },
    }


@pytest.mark.parametrize("content", [b"", b"\xff", b"{", b"[]", b"null", b'{"cause": []}', b'{"cause": "exited"}'])
def test_what_is_no_record_is_none(content: bytes) -> None:
    assert decode_ending(content) is None
    assert decode_keeper(content) is None
    assert decode_kill(content) is None


def test_keeper_round_trip() -> None:
    keeper = KeeperRecord(12, 34, AT)
    assert decode_keeper(encode_keeper(keeper)) == keeper


def test_kill_round_trip_and_bound() -> None:
    line = encode_kill(KillRequest(1.5, "c" * 200))
    assert decode_kill(line) == KillRequest(1.5, "c" * 200)
    longest = encode_kill(KillRequest(1e300, "\U0001f600" * 5000))
    assert len(longest) < 4096
    assert longest.endswith(b"\n")
    assert longest.count(b"\n") == 1
    assert decode_kill(longest) == KillRequest(1e300, "\U0001f600" * 200)


@pytest.mark.parametrize("grace", ["-1", "NaN", "Infinity", '"x"', "null"])
def test_a_grace_that_is_no_time_is_refused(grace: str) -> None:
    assert decode_kill(f'{{"kill": {{"grace_s": {grace}, "cause": "c"}}}}'.encode()) is None


def test_files_appear_whole_and_private(tmp_path: Path) -> None:
    with adoption.opened(tmp_path) as dir_fd:
        assert read_file("record", dir_fd) is None
        (tmp_path / "record.tmp").write_bytes(b"left by a crash, and longer than what comes")
        write_file("record", b"one", dir_fd, durable=True)
        write_file("record", b"two", dir_fd, durable=False)
        assert read_file("record", dir_fd) == b"two"
    assert (tmp_path / "record").stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["record"]


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"elsewhere")
    (tmp_path / "record").symlink_to("target")
    (tmp_path / "other.tmp").symlink_to("target")
    with adoption.opened(tmp_path) as dir_fd:
        with pytest.raises(OSError, match="symbolic links"):
            read_file("record", dir_fd)
        with pytest.raises(OSError, match="symbolic links"):
            write_file("other", b"x", dir_fd, durable=False)
    assert (tmp_path / "target").read_bytes() == b"elsewhere"


RELEASED = {
    "launch": b'{"argv": ["agent"], "cwd": "/w", "env": {"A": "1"}, "timeout_s": 60.0, "silence_s": null, '
    b'"grace_s": 10.0, "log_cap_bytes": 77, "cgroup": null, "wrapped": false, "limits": {"nofile": null, '
    b'"fsize_bytes": null, "cpu_s": 3, "as_bytes": null, "nproc": null, "memory_bytes": null, "tasks": null}, '
    b'"token": "t"}',
    "keeper": b'{"pid": 7, "startTicks": 99, "startedAt": "2026-11-22T10:00:00.000Z"}',
    "ending": b'{"cause": "exited", "killCause": null, "exitCode": 0, "signal": null, '
    b'"startedAt": "2026-11-22T10:00:00.000Z", "finishedAt": "2026-11-22T10:00:00.000Z", "logBytes": 5, '
    b'"logDropped": 0, "detail": null, "receipt": null}',
    "kill": b'{"kill": {"grace_s": 1.5, "cause": "killed_by_peer"}}\n',
}
"""What the first release wrote, byte by byte: a keeper of that time may still run, so this never changes."""
MEANT = {
    "launch": (LaunchSpec(("agent",), "/w", {"A": "1"}, 60.0, log_cap_bytes=77, limits=Limits(cpu_s=3)), "t"),
    "keeper": KeeperRecord(7, 99, AT),
    "ending": ENDINGS["plain"],
    "kill": KillRequest(1.5, "killed_by_peer"),
}
READ = {"launch": decode_launch, "keeper": decode_keeper, "ending": decode_ending, "kill": decode_kill}
WRITTEN = {
    "launch": encode_launch(*MEANT["launch"]),  # type: ignore[misc]  # the pair of above
    "keeper": encode_keeper(KeeperRecord(7, 99, AT)),
    "ending": encode_ending(ENDINGS["plain"]),
    "kill": encode_kill(KillRequest(1.5, "killed_by_peer")),
}


@pytest.mark.parametrize("name", RELEASED)
def test_what_an_older_release_wrote_is_read(name: str) -> None:
    assert READ[name](RELEASED[name]) == MEANT[name]


@pytest.mark.parametrize("name", RELEASED)
def test_an_older_release_finds_every_member_that_it_needs(name: str) -> None:
    def contains(present: object, older: object) -> bool:
        if isinstance(older, dict) and isinstance(present, dict):
            return all(key in present and contains(present[key], value) for key, value in older.items())
        return present == older

    assert contains(json.loads(WRITTEN[name]), json.loads(RELEASED[name]))


@pytest.mark.parametrize("name", RELEASED)
def test_what_a_newer_release_adds_is_left_alone(name: str) -> None:
    def grown(value: object) -> object:
        if isinstance(value, dict):
            return {"added": [1], **{key: grown(each) if key != "env" else each for key, each in value.items()}}
        return value

    assert READ[name](json.dumps(grown(json.loads(RELEASED[name]))).encode()) == MEANT[name]
