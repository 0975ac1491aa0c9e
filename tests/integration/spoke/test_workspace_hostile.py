"""What a repository or an agent may bring along to make the spoke run, write or hand out something."""

from __future__ import annotations

import asyncio
import os
import shutil
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha1
from pathlib import Path

import pytest

from common.repository import parse_repository
from spoke.git import Git
from spoke.workspace import Workspace, Workspaces
from tests.integration.spoke.repositories import AGENT_ENVIRONMENT, commit, git, make_repository, write

AGENT = "01990000-0000-7000-8000-000000000001"
OTHER = "01990000-0000-7000-8000-000000000002"


@dataclass(frozen=True)
class Trap:
    """A program, and the file it makes when it runs."""

    program: Path
    marker: Path

    def __str__(self) -> str:
        return str(self.program)

    def set(self) -> None:
        self.marker.unlink(missing_ok=True)

    @property
    def sprung(self) -> bool:
        return self.marker.exists()


@pytest.fixture
def trap(tmp_path: Path) -> Trap:
    made = Trap(tmp_path / "trap", tmp_path / "executed")
    made.program.write_text(f"#!/bin/sh\ntouch {made.marker}\nexit 1\n")
    made.program.chmod(0o755)
    return made


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "source")


@pytest.fixture
def home(tmp_path: Path, trap: Trap) -> Path:
    """The home of a spoke whose owner has configured git to run things."""
    templates = tmp_path / "templates"
    write(templates, {f"hooks/{hook}": f"#!/bin/sh\nexec {trap}\n" for hook in HOOKS})
    for hook in HOOKS:
        (templates / "hooks" / hook).chmod(0o755)
    write(tmp_path / "home", {".gitconfig": config(trap) + f"[init]\n\ttemplateDir = {templates}\n"})
    return tmp_path / "home"


@pytest.fixture
def workspaces(tmp_path: Path, home: Path) -> Workspaces:
    return Workspaces(tmp_path / "spoke", git=Git({**os.environ, "HOME": str(home)}), timeout_s=20)


@pytest.fixture
async def workspace(workspaces: Workspaces, source: Path) -> Workspace:
    return await workspaces.prepare("hub-eu", AGENT, parse_repository(f"file://{source}"), "main")


HOOKS = ("post-checkout", "reference-transaction", "post-index-change", "pre-commit", "post-commit", "post-merge")


def config(trap: Trap) -> str:
    """Everything in a git configuration that runs a program sooner or later."""
    return f"""
[core]
    fsmonitor = {trap}
    sshCommand = {trap}
    editor = {trap}
    pager = {trap}
[filter "evil"]
    clean = {trap}
    smudge = {trap}
    required = true
[diff]
    external = {trap}
[diff "evil"]
    textconv = {trap}
[uploadpack]
    packObjectsHook = {trap}
[remote "origin"]
    url = ext::{trap}
    promisor = true
    uploadpack = {trap}
[extensions]
    partialClone = origin
[commit]
    gpgSign = true
[gpg]
    program = {trap}
[submodule]
    recurse = true
[protocol]
    allow = always
"""


def mirror_of(workspace: Workspace) -> Path:
    return workspace.objects.parent


def shown(workspace: Workspace, ref: str | None, path: str) -> str:
    return git(mirror_of(workspace), "show", f"{ref}:{path}")


@pytest.mark.attack(52)
async def test_nothing_of_a_repository_runs_while_preparing(
    workspaces: Workspaces, source: Path, tmp_path: Path, trap: Trap
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    for hook in HOOKS:
        write(source / ".git/hooks", {hook: f"#!/bin/sh\nexec {trap}\n"})
        (source / ".git/hooks" / hook).chmod(0o755)
    write(source, {".gitattributes": "* filter=evil diff=evil\n"})
    write(source, {".gitmodules": f'[submodule "sub"]\n\tpath = sub\n\turl = ext::sh -c {trap}\n\tupdate = !{trap}\n'})
    (source / "out").symlink_to(victim)
    git(source, "add", "-A")
    git(source, "update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},sub")
    git(source, "-c", f"core.hooksPath={os.devnull}", "commit", "-q", "-m", "hostile")
    trap.set()

    workspace = await workspaces.prepare("hub-eu", AGENT, parse_repository(f"file://{source}"), "main")
    (workspace.tree / "README.md").write_text("changed\n")
    changes = await workspaces.collect(workspace)
    await workspaces.remove(workspace)

    assert not trap.sprung
    assert victim.read_text() == "untouched"
    # The submodule is listed as before, though nobody ever looked into it.
    assert "160000 commit " + "1" * 40 in git(mirror_of(workspace), "ls-tree", changes.preserved_ref or "", "sub")
    assert changes.diff_stat.files == 1
    # The control: the same checkout with the owner's configuration does run the trap.
    control = {**AGENT_ENVIRONMENT, "HOME": str(tmp_path / "home")}
    del control["GIT_CONFIG_GLOBAL"]
    await run_anyway(control, "clone", "-q", str(source), str(tmp_path / "control"))
    assert trap.sprung


async def run_anyway(environment: dict[str, str], *arguments: str) -> None:
    nothing = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(
        "git", *arguments, env=environment, stdin=nothing, stdout=nothing, stderr=nothing
    )
    await process.wait()


@pytest.mark.attack(52)
async def test_a_tree_with_a_link_and_a_directory_of_one_name_writes_nothing_outside(
    workspaces: Workspaces, source: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    blob = git(source, "hash-object", "-w", "--stdin", stdin="evil")
    link = git(source, "hash-object", "-w", "--stdin", stdin=str(outside))
    inner = git(source, "mktree", stdin=f"100644 blob {blob}\tfile\n")
    raw = b"120000 a\0" + bytes.fromhex(link) + b"40000 a\0" + bytes.fromhex(inner)
    tree = put_object(source / ".git/objects", b"tree", raw)
    tip = git(source, "commit-tree", tree, "-m", "twice")
    git(source, "update-ref", "refs/heads/twice", tip)
    try:
        await workspaces.prepare("hub-eu", AGENT, parse_repository(f"file://{source}"), "twice")
    finally:
        assert list(outside.iterdir()) == []


def put_object(objects: Path, kind: bytes, content: bytes, name: str | None = None) -> str:
    """Write a loose object, under a false name if one is given."""
    stored = kind + b" %d\0" % len(content) + content
    sha = name or sha1(stored, usedforsecurity=False).hexdigest()
    path = objects / sha[:2] / sha[2:]
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_bytes(zlib.compress(stored))
    return sha


def own_config(workspace: Workspace, trap: Trap) -> None:
    (workspace.repo / "config").write_text("[core]\n\trepositoryformatversion = 1\n" + config(trap))


def included_config(workspace: Workspace, trap: Trap) -> None:
    write(workspace.tree, {"evil.config": config(trap)})
    (workspace.repo / "config").write_text(f"[include]\n\tpath = {workspace.tree}/evil.config\n")


def worktree_config(workspace: Workspace, trap: Trap) -> None:
    (workspace.repo / "config").write_text(
        "[core]\n\trepositoryformatversion = 1\n[extensions]\n\tworktreeConfig = true\n"
    )
    (workspace.repo / "worktrees/tree/config.worktree").write_text(config(trap))


def hooks(workspace: Workspace, trap: Trap) -> None:
    for hook in HOOKS:
        write(workspace.repo / "hooks", {hook: f"#!/bin/sh\nexec {trap}\n"})
        (workspace.repo / "hooks" / hook).chmod(0o755)


def git_directory_in_tree(workspace: Workspace, trap: Trap) -> None:
    (workspace.tree / ".git").unlink()
    git(workspace.tree, "init", "-q")
    (workspace.tree / ".git/config").write_text(config(trap))


def alternative_index(workspace: Workspace, trap: Trap) -> None:
    git(workspace.tree, "update-index", "--assume-unchanged", "README.md", "src/app.py")
    own_config(workspace, trap)


CONFIGURATIONS: list[Callable[[Workspace, Trap], None]] = [
    own_config,
    included_config,
    worktree_config,
    hooks,
    git_directory_in_tree,
    alternative_index,
]


@pytest.mark.attack(52)
@pytest.mark.parametrize("prepare_trap", CONFIGURATIONS, ids=lambda function: function.__name__)
async def test_nothing_an_agent_configured_runs_when_it_is_read(
    workspaces: Workspaces,
    workspace: Workspace,
    trap: Trap,
    prepare_trap: Callable[[Workspace, Trap], None],
) -> None:
    head = commit(workspace.tree, {"done": "1\n"}, "work")
    prepare_trap(workspace, trap)
    write(workspace.tree, {".gitattributes": "* filter=evil diff=evil\n", "README.md": "dirty\n"})
    trap.set()

    patch = await workspaces.patch(workspace)
    changes = await workspaces.collect(workspace)

    assert not trap.sprung
    assert changes.head == head
    assert shown(workspace, changes.preserved_ref, "README.md") == "dirty"
    assert b"+dirty" in patch
    # The control: any git that an owner would run in that tree does run the trap.
    await run_anyway(AGENT_ENVIRONMENT, "-C", str(workspace.tree), "add", "-A")
    await run_anyway(AGENT_ENVIRONMENT, "-C", str(workspace.tree), "commit", "-m", "x")
    assert trap.sprung


@pytest.mark.attack(52)
@pytest.mark.parametrize("submodule", [True, False], ids=["submodule", "nested repository"])
async def test_a_repository_in_the_tree_is_not_entered(
    workspaces: Workspaces, workspace: Workspace, trap: Trap, *, submodule: bool
) -> None:
    inner = make_repository(workspace.tree / "inner")
    if submodule:
        git(workspace.tree, "add", "inner")
        git(workspace.tree, "commit", "-q", "-m", "a submodule")
    (inner / ".git/config").write_text(config(trap))
    write(inner, {"README.md": "changed\n"})
    write(workspace.tree, {"mine": "kept\n"})
    trap.set()
    changes = await workspaces.collect(workspace)
    await workspaces.patch(workspace)
    assert not trap.sprung
    assert shown(workspace, changes.preserved_ref, "mine") == "kept"
    assert (changes.problem is None) == submodule
    await run_anyway(AGENT_ENVIRONMENT, "-C", str(workspace.tree), "add", "-A", "inner")
    await run_anyway(AGENT_ENVIRONMENT, "-C", str(workspace.tree), "status")
    assert trap.sprung


@pytest.fixture
async def secret(workspaces: Workspaces, tmp_path: Path) -> tuple[Workspace, str]:
    """The workspace of another tenant, and a commit that is in it and in its mirror."""
    private = make_repository(tmp_path / "private", {"secret": "of another tenant\n"})
    theirs = await workspaces.prepare("hub-us", OTHER, parse_repository(f"file://{private}"), "main")
    sha = commit(theirs.tree, {"more": "secrets\n"}, "secret")
    await workspaces.collect(theirs)
    return theirs, sha


def by_alternates(workspace: Workspace, theirs: Workspace) -> None:
    (workspace.repo / "objects/info/alternates").write_text(f"{workspace.objects}\n{theirs.objects}\n")


def by_linked_objects(workspace: Workspace, theirs: Workspace) -> None:
    shutil.rmtree(workspace.repo / "objects")
    (workspace.repo / "objects").symlink_to(theirs.objects)


def by_linked_loose_objects(workspace: Workspace, theirs: Workspace) -> None:
    for directory in theirs.objects.glob("[0-9a-f][0-9a-f]"):
        shutil.rmtree(workspace.repo / "objects" / directory.name, ignore_errors=True)
        (workspace.repo / "objects" / directory.name).symlink_to(directory)


def by_linked_files(workspace: Workspace, theirs: Workspace) -> None:
    for file in theirs.objects.glob("[0-9a-f][0-9a-f]/*"):
        target = workspace.repo / "objects" / file.parent.name
        target.mkdir(exist_ok=True)
        (target / file.name).unlink(missing_ok=True)
        (target / file.name).symlink_to(file)


def by_commondir(workspace: Workspace, theirs: Workspace) -> None:
    (workspace.repo / "commondir").write_text(f"{mirror_of(theirs)}\n")


def by_linked_repository(workspace: Workspace, theirs: Workspace) -> None:
    shutil.rmtree(workspace.repo)
    workspace.repo.symlink_to(theirs.repo)


WAYS: list[Callable[[Workspace, Workspace], None]] = [
    by_alternates,
    by_linked_objects,
    by_linked_loose_objects,
    by_linked_files,
    by_commondir,
    by_linked_repository,
]


@pytest.mark.parametrize("way", WAYS, ids=lambda function: function.__name__)
async def test_another_tenants_objects_cannot_be_reached(
    workspaces: Workspaces,
    workspace: Workspace,
    secret: tuple[Workspace, str],
    way: Callable[[Workspace, Workspace], None],
) -> None:
    theirs, sha = secret
    (workspace.repo / "worktrees/tree/HEAD").write_text(f"{sha}\n")
    (workspace.repo / "refs/heads/stolen").write_text(f"{sha}\n")
    write(workspace.tree, {"mine": "kept\n"})
    way(workspace, theirs)
    changes = await workspaces.collect(workspace)
    assert changes.head == workspace.base
    assert shown(workspace, changes.preserved_ref, "mine") == "kept"
    reached = git(mirror_of(workspace), "cat-file", "--batch-check", "--batch-all-objects")
    assert sha not in reached


async def test_a_tree_replaced_by_a_link_is_not_followed(
    workspaces: Workspaces, workspace: Workspace, tmp_path: Path
) -> None:
    write(tmp_path / "elsewhere", {"secret": "x"})
    shutil.rmtree(workspace.tree)
    workspace.tree.symlink_to(tmp_path / "elsewhere")
    changes = await workspaces.collect(workspace)
    assert (changes.preserved_ref, changes.problem) == (None, "the working tree is gone")
    assert await workspaces.patch(workspace) == b""
    await workspaces.remove(workspace)
    assert (tmp_path / "elsewhere/secret").exists()


async def test_an_object_under_a_false_name_does_not_get_into_the_mirror(
    workspaces: Workspaces, workspace: Workspace
) -> None:
    true_name = put_object(workspace.repo / "objects", b"blob", b"true")
    put_object(workspace.repo / "objects", b"blob", b"false", true_name)
    tree = put_object(workspace.repo / "objects", b"tree", b"100644 f\0" + bytes.fromhex(true_name))
    about = b"a <a@b> 1 +0000"
    text = b"tree %s\nparent %s\nauthor %s\ncommitter %s\n\nx\n" % (
        tree.encode(),
        workspace.base.encode(),
        about,
        about,
    )
    (workspace.repo / "worktrees/tree/HEAD").write_text(put_object(workspace.repo / "objects", b"commit", text) + "\n")
    changes = await workspaces.collect(workspace)
    assert changes.head == workspace.base
    assert "cannot all be read" in (changes.problem or "")
    assert true_name not in git(mirror_of(workspace), "cat-file", "--batch-check", "--batch-all-objects")


async def test_a_broken_branch_does_not_cost_the_commits_of_head(workspaces: Workspaces, workspace: Workspace) -> None:
    head = commit(workspace.tree, {"a": "1"}, "work")
    (workspace.repo / "refs/heads/broken").write_text("1" * 40 + "\n")
    changes = await workspaces.collect(workspace)
    assert changes.head == head
    assert "cannot all be read" in (changes.problem or "")


def fifo_as_head(workspace: Workspace) -> None:
    (workspace.repo / "worktrees/tree/HEAD").unlink()
    os.mkfifo(workspace.repo / "worktrees/tree/HEAD")


def no_worktree_directory(workspace: Workspace) -> None:
    shutil.rmtree(workspace.repo / "worktrees")


def nonsense_as_head(workspace: Workspace) -> None:
    (workspace.repo / "worktrees/tree/HEAD").write_bytes(b"\xff\0ref: ../../..")


def head_of_another_kind(workspace: Workspace) -> None:
    (workspace.repo / "worktrees/tree/HEAD").write_text("ref: refs/notes/x\n")


@pytest.mark.parametrize(
    "damage",
    [fifo_as_head, no_worktree_directory, nonsense_as_head, head_of_another_kind],
    ids=lambda function: function.__name__,
)
async def test_without_a_head_the_agents_branch_counts(
    workspaces: Workspaces, workspace: Workspace, damage: Callable[[Workspace], None]
) -> None:
    head = commit(workspace.tree, {"a": "1"}, "work")
    damage(workspace)
    assert (await workspaces.collect(workspace)).head == head


async def test_without_any_repository_the_files_count(workspaces: Workspaces, workspace: Workspace) -> None:
    commit(workspace.tree, {"a": "1"}, "work")
    shutil.rmtree(workspace.repo)
    changes = await workspaces.collect(workspace)
    assert changes.head == workspace.base
    assert shown(workspace, changes.preserved_ref, "a") == "1"


def unreadable_directory(tree: Path) -> None:
    write(tree, {"closed/file": "x"})
    (tree / "closed").chmod(0)


def other_spelling_of_git_directory(tree: Path) -> None:
    write(tree, {".GIT/config": "x", "d/.Git/config": "x"})


def wrong_encoding(tree: Path) -> None:
    write(tree, {".gitattributes": "*.u16 working-tree-encoding=UTF-16\n", "a.u16": "odd"})


def empty_nested_repository(tree: Path) -> None:
    (tree / "nested").mkdir()
    git(tree / "nested", "init", "-q")


def name_that_is_no_utf8(tree: Path) -> None:
    (tree / os.fsdecode(b"\xff\n\t name")).write_text("x")


def fifo_and_socket(tree: Path) -> None:
    os.mkfifo(tree / "fifo")


def directory_for_a_file(tree: Path) -> None:
    (tree / "README.md").unlink()
    write(tree, {"README.md/now": "a directory"})


def link_for_a_directory(tree: Path) -> None:
    shutil.rmtree(tree / "src")
    (tree / "src").symlink_to("/etc")


def very_deep(tree: Path) -> None:
    descriptor = os.open(tree, os.O_RDONLY)
    for _ in range(2500):
        os.mkdir("d", dir_fd=descriptor)
        inner = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
    os.close(descriptor)


OBSTACLES: list[Callable[[Path], None]] = [
    unreadable_directory,
    other_spelling_of_git_directory,
    wrong_encoding,
    empty_nested_repository,
    name_that_is_no_utf8,
    fifo_and_socket,
    directory_for_a_file,
    link_for_a_directory,
    very_deep,
]


@pytest.mark.fault(30)
@pytest.mark.parametrize("obstacle", OBSTACLES, ids=lambda function: function.__name__)
async def test_no_obstacle_costs_the_other_files(
    workspaces: Workspaces, workspace: Workspace, obstacle: Callable[[Path], None]
) -> None:
    write(workspace.tree, {"mine": "kept\n"})
    obstacle(workspace.tree)
    changes = await workspaces.collect(workspace)
    assert shown(workspace, changes.preserved_ref, "mine") == "kept"
    await workspaces.remove(workspace)
    assert not workspace.path.exists()
