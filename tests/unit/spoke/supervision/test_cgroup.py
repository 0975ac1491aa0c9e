"""Which control group is ours to divide, from what /proc says and what lies on disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from spoke.supervision.cgroup import is_delegated, parse_own_group, prepare

HYBRID = "30 24 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw"
UNIFIED = "24 20 0:22 / / rw - ext4 /dev/vda rw\n30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup rw"
SUBTREE = "30 24 0:26 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup rw"


@pytest.mark.parametrize(
    ("cgroups", "mounts", "expected"),
    [
        pytest.param("0::/a.slice/b.service\n", UNIFIED, ("/sys/fs/cgroup/a.slice/b.service", False), id="a unit"),
        pytest.param("8:pids:/x\n0::/a\n", HYBRID, ("/sys/fs/cgroup/unified/a", False), id="beside version 1"),
        pytest.param("0::/\n", UNIFIED, ("/sys/fs/cgroup", True), id="a namespace, or the machine's root"),
        pytest.param("0::/spoke\n", UNIFIED, ("/sys/fs/cgroup/spoke", True), id="our second start in a namespace"),
        pytest.param("0::/docker/abc/x\n", SUBTREE, ("/sys/fs/cgroup/x", False), id="only a part is mounted"),
        pytest.param("0::/other\n", SUBTREE, None, id="we are outside of that part"),
        pytest.param("8:pids:/x\n", UNIFIED, None, id="version 1 only"),
        pytest.param("0::/a\n", "24 20 0:22 / / rw - ext4 /dev/vda rw", None, id="not mounted"),
    ],
)
def test_own_group(cgroups: str, mounts: str, expected: tuple[str, bool] | None) -> None:
    found = parse_own_group(cgroups, mounts)
    assert found == (None if expected is None else (Path(expected[0]), expected[1]))


def make_group(path: Path, *, root: bool = False) -> Path:
    path.mkdir()
    for name in ("cgroup.procs", "cgroup.subtree_control"):
        (path / name).write_text("")
    (path / "cgroup.controllers").write_text("cpu memory pids\n")
    if not root:
        (path / "cgroup.type").write_text("domain\n")
    return path


def test_the_root_of_the_hierarchy_is_never_delegated(tmp_path: Path) -> None:
    assert not is_delegated(make_group(tmp_path / "root", root=True), namespace=True)


def test_the_root_of_a_namespace_is(tmp_path: Path) -> None:
    assert is_delegated(make_group(tmp_path / "group"), namespace=True)


def test_that_root_can_write_to_a_group_makes_it_nobody_s_gift(tmp_path: Path) -> None:
    assert is_delegated(make_group(tmp_path / "group"), namespace=False) == (os.geteuid() != 0)


@pytest.mark.parametrize("value", [b"1", b"0"])
def test_the_mark_of_systemd(tmp_path: Path, value: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    group = make_group(tmp_path / "group")
    marks = {(group, "user.delegate"): value}  # not every file system for temporary files keeps them
    monkeypatch.setattr(os, "getxattr", lambda path, name: marks.get((path, name), b""))
    assert is_delegated(group, namespace=False) == (value == b"1" or os.geteuid() != 0)


def test_preparing_moves_us_aside_and_hands_the_controllers_on(tmp_path: Path) -> None:
    base = make_group(tmp_path / "base")
    (base / "cgroup.procs").write_text("17\n4711\n")
    make_group(base / "spoke")
    make_group(base / "agents")
    assert prepare(base) == base / "agents"
    # Plain files keep the writes on top of each other, which a kernel takes one by one.
    assert (base / "spoke" / "cgroup.procs").read_text() == "4711"
    assert (base / "cgroup.subtree_control").read_text() == "+pidsry"
    assert (base / "agents" / "cgroup.subtree_control").read_text() == "+pidsry"
