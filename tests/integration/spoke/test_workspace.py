from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from common.repository import Repository, parse_repository
from spoke.git import Git
from spoke.mirror import Mirror
from spoke.removal import delete_tree
from spoke.workspace import Workspace, WorkspaceFailed, Workspaces
from tests.integration.spoke.repositories import commit, git, make_repository, write

AGENT = "01990000-0000-7000-8000-000000000001"
OTHER = "01990000-0000-7000-8000-000000000002"
REAL_GIT = shutil.which("git") or ""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "source")


@pytest.fixture
def repository(source: Path) -> Repository:
    return parse_repository(f"file://{source}")


@pytest.fixture
def workspaces(tmp_path: Path) -> Workspaces:
    return Workspaces(tmp_path / "spoke", git=Git(os.environ), timeout_s=20)


@pytest.fixture
async def workspace(workspaces: Workspaces, repository: Repository) -> Workspace:
    return await workspaces.prepare("hub-eu", AGENT, repository, "main")


def mirror_of(workspace: Workspace) -> Path:
    return workspace.objects.parent


class TestPrepare:
    async def test_the_tree_is_the_branch_on_a_branch_of_its_own(self, workspace: Workspace, source: Path) -> None:
        assert (workspace.tree / "README.md").read_text() == "hello\n"
        assert workspace.base == git(source, "rev-parse", "main")
        assert git(workspace.tree, "rev-parse", "HEAD") == workspace.base
        assert git(workspace.tree, "symbolic-ref", "HEAD") == f"refs/heads/hubspoke/{AGENT}"
        assert git(workspace.tree, "status", "--porcelain") == ""

    async def test_what_the_agent_writes_stays_out_of_the_mirror(self, workspace: Workspace) -> None:
        before = sorted(path for path in mirror_of(workspace).rglob("*"))
        commit(workspace.tree, {"new": "x"}, "work")
        git(workspace.tree, "config", "alias.evil", "!true")
        git(workspace.tree, "gc", "-q", "--prune=now")
        assert sorted(path for path in mirror_of(workspace).rglob("*")) == before
        assert "evil" not in (mirror_of(workspace) / "config").read_text()

    async def test_a_later_agent_gets_the_later_tip(
        self, workspaces: Workspaces, workspace: Workspace, repository: Repository, source: Path
    ) -> None:
        tip = commit(source, {"later": "x"}, "second")
        later = await workspaces.prepare("hub-eu", OTHER, repository, "main")
        assert later.base == tip
        assert mirror_of(later) == mirror_of(workspace)

    async def test_peers_share_no_objects(
        self, workspaces: Workspaces, workspace: Workspace, repository: Repository
    ) -> None:
        other = await workspaces.prepare("hub-us", AGENT, repository, "main")
        assert other.objects != workspace.objects
        assert not (mirror_of(other) / "objects/info/alternates").exists()

    async def test_a_branch_that_became_a_directory_is_no_obstacle(
        self, workspaces: Workspaces, repository: Repository, source: Path
    ) -> None:
        git(source, "branch", "topic")
        await workspaces.prepare("hub-eu", AGENT, repository, "topic")
        git(source, "branch", "-D", "topic")
        git(source, "branch", "topic/one")
        assert is_made(await workspaces.prepare("hub-eu", OTHER, repository, "topic/one"))

    @pytest.mark.parametrize(
        ("url", "branch", "words"),
        [
            ("file://{source}", "nope", "refs/heads/nope"),
            ("file://{source}/nope", "main", "does not appear to be a git repository"),
            ("https://127.0.0.1:{closed}/team/app", "main", "Failed to connect"),
        ],
        ids=["missing branch", "missing repository", "network"],
    )
    async def test_what_cannot_be_fetched_says_why(
        self, workspaces: Workspaces, source: Path, unused_tcp_port: int, url: str, branch: str, words: str
    ) -> None:
        repository = parse_repository(url.format(source=source, closed=unused_tcp_port))
        with pytest.raises(WorkspaceFailed, match=words) as failed:
            await workspaces.prepare("hub-eu", AGENT, repository, branch)
        assert failed.value.code == "workspace_failed"
        assert failed.value.retryable == (repository.scheme == "https")
        assert workspaces.open("hub-eu", AGENT) is None

    async def test_an_empty_repository_has_no_branch(self, workspaces: Workspaces, tmp_path: Path) -> None:
        git(tmp_path, "init", "-q", "--bare", "empty.git")
        with pytest.raises(WorkspaceFailed) as failed:
            await workspaces.prepare("hub-eu", AGENT, parse_repository(f"file://{tmp_path}/empty.git"), "main")
        assert not failed.value.retryable

    async def test_many_agents_of_one_repository_at_once(self, tmp_path: Path, repository: Repository) -> None:
        # Two of them, as in two worker processes: the lock is the file's, not the object's.
        several = [Workspaces(tmp_path / "spoke", git=Git(os.environ), timeout_s=30) for _ in range(2)]
        agents = [f"01990000-0000-7000-8000-{number:012d}" for number in range(8)]
        made = await asyncio.gather(
            *(several[number % 2].prepare("hub-eu", agent, repository, "main") for number, agent in enumerate(agents))
        )
        assert len({workspace.tree for workspace in made}) == 8
        assert all((workspace.tree / "src/app.py").exists() for workspace in made)

    @pytest.mark.attack(55)
    @pytest.mark.parametrize("bad", ["..", "a/b", "a\0b", "", "A", ".hidden"])
    async def test_ids_that_are_no_path_part_touch_nothing(
        self, workspaces: Workspaces, repository: Repository, tmp_path: Path, bad: str
    ) -> None:
        for peer, agent_id in ((bad, AGENT), ("hub-eu", bad)):
            with pytest.raises(WorkspaceFailed):
                await workspaces.prepare(peer, agent_id, repository, "main")
        assert not (tmp_path / "spoke").exists()


class TestAfterACrash:
    async def test_the_same_agent_again_starts_anew_and_keeps_what_was_there(
        self, workspaces: Workspaces, workspace: Workspace, repository: Repository
    ) -> None:
        head = commit(workspace.tree, {"a": "committed"}, "work")
        write(workspace.tree, {"b": "uncommitted"})
        again = await workspaces.prepare("hub-eu", AGENT, repository, "main")
        assert git(again.tree, "status", "--porcelain") == ""
        assert git(again.tree, "rev-parse", "HEAD") == again.base
        kept = git(mirror_of(again), "for-each-ref", "--format=%(objectname)", f"refs/hubspoke/earlier/{AGENT}/")
        assert git(mirror_of(again), "show", f"{kept}:b") == "uncommitted"
        assert git(mirror_of(again), "rev-parse", f"{kept}^") == head

    async def test_half_a_workspace_is_swept_away(
        self, workspaces: Workspaces, workspace: Workspace, repository: Repository
    ) -> None:
        (workspace.path / "workspace.json").unlink()
        (workspace.repo / "HEAD").unlink()
        assert workspaces.open("hub-eu", AGENT) is None
        again = await workspaces.prepare("hub-eu", AGENT, repository, "main")
        assert git(again.tree, "status", "--porcelain") == ""

    async def test_half_a_mirror_is_made_anew(
        self, workspaces: Workspaces, workspace: Workspace, repository: Repository
    ) -> None:
        mirror = mirror_of(workspace)
        half = mirror.with_suffix(".new")
        mirror.rename(half)
        (half / "HEAD").unlink()
        assert is_made(await workspaces.prepare("hub-eu", OTHER, repository, "main"))

    async def test_locks_of_a_killed_git_are_no_obstacle(
        self, workspaces: Workspaces, workspace: Workspace, repository: Repository, source: Path
    ) -> None:
        commit(source, {"later": "x"}, "second")
        refs = [path for path in mirror_of(workspace).rglob("refs/hubspoke/**/*") if path.is_file()]
        for path in (*refs, mirror_of(workspace) / "packed-refs"):
            path.with_name(f"{path.name}.lock").touch()
        assert is_made(await workspaces.prepare("hub-eu", AGENT, repository, "main"))

    async def test_a_git_that_outlives_its_spoke_still_holds_the_mirror(
        self, tmp_path: Path, source: Path, repository: Repository
    ) -> None:
        started, go = tmp_path / "started", tmp_path / "go"
        os.mkfifo(go)
        slow_git(tmp_path / "bin", f'case "$*" in *" fetch "*) touch {started}; read line < {go};; esac')
        script = (
            "import asyncio, os; from pathlib import Path; from spoke.workspace import *; from spoke.git import Git\n"
            "from common.repository import parse_repository\n"
            f"ws = Workspaces(Path({str(tmp_path / 'spoke')!r}), git=Git(os.environ))\n"
            f"asyncio.run(ws.prepare('hub-eu', {OTHER!r}, parse_repository({repository.url!r}), 'main'))"
        )
        environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
        spoke = await asyncio.create_subprocess_exec(sys.executable, "-c", script, env=environment)
        await until(started.exists)
        spoke.send_signal(signal.SIGKILL)
        await spoke.wait()

        impatient = Workspaces(tmp_path / "spoke", git=Git(os.environ), timeout_s=0.3)
        with pytest.raises(WorkspaceFailed, match="in use") as busy:
            await impatient.prepare("hub-eu", AGENT, repository, "main")
        assert busy.value.retryable
        await asyncio.to_thread(go.write_text, "go\n")
        patient = Workspaces(tmp_path / "spoke", git=Git(os.environ), timeout_s=20)
        assert is_made(await patient.prepare("hub-eu", AGENT, repository, "main"))

    async def test_open_finds_what_prepare_made(self, workspaces: Workspaces, workspace: Workspace) -> None:
        assert workspaces.open("hub-eu", AGENT) == workspace
        assert workspaces.open("hub-eu", OTHER) is None

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"repository": "ext::x"}', '{"repository": 5}'])
    async def test_a_broken_record_is_no_workspace(
        self, workspaces: Workspaces, workspace: Workspace, repository: Repository, text: str
    ) -> None:
        (workspace.path / "workspace.json").write_text(text)
        assert workspaces.open("hub-eu", AGENT) is None
        assert is_made(await workspaces.prepare("hub-eu", AGENT, repository, "main"))


class TestCollect:
    async def test_nothing_done(self, workspaces: Workspaces, workspace: Workspace) -> None:
        changes = await workspaces.collect(workspace)
        assert (changes.head, changes.commits, changes.preserved_ref) == (workspace.base, (), None)
        assert (changes.diff_stat.files, changes.problem) == (0, None)
        assert changes.branch == f"hubspoke/{AGENT}"

    async def test_commits_come_newest_last(self, workspaces: Workspaces, workspace: Workspace) -> None:
        one = commit(workspace.tree, {"a": "1\n2\n"}, "one")
        two = commit(workspace.tree, {"src/app.py": "print(2)\n"}, "two \x1b[31m red")
        changes = await workspaces.collect(workspace)
        assert [(c.sha, c.subject) for c in changes.commits] == [(one, "one"), (two, "two \ufffd[31m red")]
        assert (changes.diff_stat.files, changes.diff_stat.insertions, changes.diff_stat.deletions) == (2, 3, 1)
        assert git(mirror_of(workspace), "rev-parse", f"refs/hubspoke/agents/{AGENT}") == two == changes.head
        assert (changes.preserved_ref, changes.problem) == (None, None)

    async def test_the_newest_hundred_of_many(self, workspaces: Workspaces, workspace: Workspace) -> None:
        stream = "".join(
            f"commit refs/heads/hubspoke/{AGENT}\ncommitter a <a@b> {number} +0000\ndata <<E\nc{number}\nE\n"
            + (f"from {workspace.base}\n" if number == 1 else "")
            for number in range(1, 121)
        )
        git(workspace.tree, "fast-import", "--quiet", "--force", stdin=stream)
        changes = await workspaces.collect(workspace)
        assert [commit.subject for commit in changes.commits] == [f"c{number}" for number in range(21, 121)]

    async def test_what_a_program_leaves_in_the_tree_is_nobody_s_work(
        self, tmp_path: Path, workspaces: Workspaces, workspace: Workspace
    ) -> None:
        write(workspace.tree, {".index.v4/db": "1", "src/.index.v5": "2"})
        ignoring = Workspaces(tmp_path / "spoke", git=Git(os.environ), timeout_s=20, ignored=lambda: [".index.v*"])
        assert not await ignoring.collect(workspace)
        assert await ignoring.patch(workspace) == b""
        assert (await workspaces.collect(workspace)).diff_stat.files == 2
        # A file that the repository itself holds stays work.
        commit(workspace.tree, {".index.v4/db": "1"}, "the index")
        write(workspace.tree, {".index.v4/db": "2"})
        assert (await ignoring.collect(workspace)).preserved_ref

    @pytest.mark.fault(30)
    async def test_uncommitted_work_is_kept_before_the_workspace_goes(
        self, workspaces: Workspaces, workspace: Workspace
    ) -> None:
        head = commit(workspace.tree, {"done": "1", ".gitignore": "*.tmp\n"}, "work")
        write(workspace.tree, {"src/app.py": "changed\n", "new/file": "new\n", "x.tmp": "ignored"})
        (workspace.tree / "README.md").unlink()
        (workspace.tree / "link").symlink_to("/etc/passwd")
        (workspace.tree / "tool").write_text("#!/bin/sh\n")
        (workspace.tree / "tool").chmod(0o755)
        git(workspace.tree, "add", "new/file")

        changes = await workspaces.collect(workspace)
        await workspaces.remove(workspace)
        await workspaces.remove(workspace)

        assert not workspace.path.exists()
        ref = changes.preserved_ref or ""
        assert ref == f"refs/hubspoke/preserved/{AGENT}"
        mirror = mirror_of(workspace)
        assert git(mirror, "rev-parse", f"{ref}^") == head == changes.head
        assert git(mirror, "show", f"{ref}:src/app.py") == "changed"
        assert git(mirror, "show", f"{ref}:link") == "/etc/passwd"
        assert git(mirror, "ls-tree", "-r", "--format=%(objectmode) %(path)", ref).splitlines() == [
            "100644 .gitignore",
            "100644 done",
            "120000 link",
            "100644 new/file",
            "100644 src/app.py",
            "100755 tool",
        ]
        assert changes.diff_stat.files == 7

    @pytest.mark.fault(30)
    async def test_remove_alone_keeps_uncommitted_work_too(self, workspaces: Workspaces, workspace: Workspace) -> None:
        await workspaces.collect(workspace)
        resumed = workspaces.open("hub-eu", AGENT)
        assert resumed is not None
        write(workspace.tree, {"late": "work\n"})
        await workspaces.remove(resumed)
        assert git(mirror_of(workspace), "show", f"refs/hubspoke/preserved/{AGENT}:late") == "work"

    async def test_work_survives_until_it_is_kept(self, workspaces: Workspaces, workspace: Workspace) -> None:
        write(workspace.tree, {"precious": "x"})
        shutil.rmtree(mirror_of(workspace))
        with pytest.raises(WorkspaceFailed):
            await workspaces.remove(workspace)
        assert (workspace.tree / "precious").exists()

    async def test_branches_beside_head_are_kept(self, workspaces: Workspaces, workspace: Workspace) -> None:
        git(workspace.tree, "checkout", "-q", "-b", "side/line")
        side = commit(workspace.tree, {"side": "1"}, "side")
        git(workspace.tree, "checkout", "-q", "--detach", workspace.base)
        head = commit(workspace.tree, {"other": "1"}, "detached")
        git(workspace.tree, "pack-refs", "--all")
        changes = await workspaces.collect(workspace)
        assert changes.head == head
        assert git(mirror_of(workspace), "rev-parse", f"refs/hubspoke/heads/{AGENT}/{side}") == side

    async def test_packed_and_loose_objects(self, workspaces: Workspaces, workspace: Workspace) -> None:
        commit(workspace.tree, {"a": "1"}, "packed")
        git(workspace.tree, "gc", "-q")
        head = commit(workspace.tree, {"b": "1"}, "loose")
        assert (await workspaces.collect(workspace)).head == head

    async def test_history_rewritten(self, workspaces: Workspaces, workspace: Workspace) -> None:
        git(workspace.tree, "checkout", "-q", "--orphan", "new")
        changes = await workspaces.collect(workspace)
        assert changes.problem is None
        head = commit(workspace.tree, {"a": "1"}, "rootless")
        changes = await workspaces.collect(workspace)
        assert (changes.head, [c.sha for c in changes.commits]) == (head, [head])

    async def test_the_patch_applies(self, workspaces: Workspaces, workspace: Workspace, tmp_path: Path) -> None:
        commit(workspace.tree, {"a": "1\n"}, "one")
        (workspace.tree / "binary").write_bytes(bytes(range(256)))
        objects_before = len(list(mirror_of(workspace).rglob("objects/??/*")))
        patch = await workspaces.patch(workspace)
        (tmp_path / "change.patch").write_bytes(patch)
        git(tmp_path / "source", "apply", str(tmp_path / "change.patch"))
        assert (tmp_path / "source/a").read_text() == "1\n"
        assert (tmp_path / "source/binary").read_bytes() == bytes(range(256))
        assert len(list(mirror_of(workspace).rglob("objects/??/*"))) == objects_before

    async def test_no_change_is_an_empty_patch(self, workspaces: Workspaces, workspace: Workspace) -> None:
        assert await workspaces.patch(workspace) == b""

    async def test_a_tree_that_is_gone_costs_nothing_but_itself(
        self, workspaces: Workspaces, workspace: Workspace
    ) -> None:
        head = commit(workspace.tree, {"a": "1"}, "one")
        shutil.rmtree(workspace.tree)
        changes = await workspaces.collect(workspace)
        assert (changes.head, changes.preserved_ref, changes.problem) == (head, None, "the working tree is gone")

    @pytest.mark.parametrize(
        ("script", "retryable"), [("sleep 1000", True), ("echo fatal: broken >&2; exit 128", False)]
    )
    async def test_a_git_that_fails_leaves_the_work_where_it_is(
        self, tmp_path: Path, workspace: Workspace, script: str, *, retryable: bool
    ) -> None:
        write(workspace.tree, {"precious": "x"})
        slow_git(tmp_path / "bin", f'case "$*" in *" add "*) {script};; esac')
        broken = Workspaces(tmp_path / "spoke", git=Git(os.environ, program=str(tmp_path / "bin/git")), timeout_s=1)
        for failing in (broken.collect(workspace), broken.patch(workspace), broken.remove(workspace)):
            with pytest.raises(WorkspaceFailed) as failed:
                await failing
            assert failed.value.retryable == retryable
        assert (workspace.tree / "precious").exists()

    async def test_a_root_that_cannot_be_used_says_why(self, tmp_path: Path, repository: Repository) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(WorkspaceFailed, match="Not a directory") as failed:
            await Workspaces(tmp_path / "file", git=Git(os.environ)).prepare("hub-eu", AGENT, repository, "main")
        assert not failed.value.retryable


class TestDelete:
    async def test_what_is_closed_is_opened_first(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        # Root may delete in any directory, and tests run as root too: this rm minds the permissions.
        real = shutil.which("rm")
        rm = tmp_path / "bin/rm"
        write(
            tmp_path,
            {"bin/rm": f'#!/bin/sh\n[ "$(stat -c %A "$3/closed")" = d--------- ] && exit 1\nexec {real} "$@"\n'},
        )
        rm.chmod(0o755)
        monkeypatch.setenv("PATH", f"{rm.parent}:{os.environ['PATH']}")
        write(tmp_path, {"victim/closed/file": "x"})
        (tmp_path / "victim/closed").chmod(0)
        await delete_tree(tmp_path / "victim")
        assert not (tmp_path / "victim").exists()

    @pytest.mark.parametrize("script", ["exit 1", "exec sleep 1000"])
    async def test_what_remains_is_not_silently_left(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
    ) -> None:
        write(tmp_path, {"bin/rm": f"#!/bin/sh\n{script}\n", "victim": "x"})
        (tmp_path / "bin/rm").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
        with pytest.raises((OSError, TimeoutError)):
            async with asyncio.timeout(0.5):
                await delete_tree(tmp_path / "victim")


def slow_git(directory: Path, first: str) -> None:
    """Put a git into `directory` that does `first` and then what git does."""
    directory.mkdir()
    (directory / "git").write_text(f'#!/bin/sh\n{first}\nexec {REAL_GIT} "$@"\n')
    (directory / "git").chmod(0o755)


def is_made(workspace: Workspace) -> bool:
    """Whether the tree holds what the branch holds."""
    return (workspace.tree / "README.md").is_file() and git(workspace.tree, "status", "--porcelain") == ""


async def until(condition: Callable[[], bool], deadline_s: float = 20) -> None:
    async with asyncio.timeout(deadline_s):
        while not condition():  # noqa: ASYNC110 - another process makes it true
            await asyncio.sleep(0.01)


class TestRestore:
    """After its end the workspace is removed; a resume gets it back from the mirror."""

    @staticmethod
    async def again(workspaces: Workspaces, repository: Repository) -> Workspace:
        return await workspaces.restore("hub-eu", AGENT, repository, "main")

    async def test_it_is_as_the_agent_left_it_also_when_the_branch_went_on(
        self, workspaces: Workspaces, workspace: Workspace, repository: Repository, source: Path
    ) -> None:
        head = commit(workspace.tree, {"done": "1\n"}, "work")
        write(workspace.tree, {"README.md": "changed\n", "new/file": "2\n"})
        (workspace.tree / "src" / "app.py").unlink()
        before = git(workspace.tree, "status", "--porcelain")
        await workspaces.collect(workspace)
        await workspaces.remove(workspace)
        commit(source, {"later": "x"}, "the branch goes on")

        restored = await self.again(workspaces, repository)
        assert (restored.path, restored.base, restored.branch) == (workspace.path, workspace.base, workspace.branch)
        assert git(restored.tree, "rev-parse", "HEAD") == head
        assert git(restored.tree, "symbolic-ref", "HEAD") == f"refs/heads/{workspace.branch}"
        assert git(restored.tree, "status", "--porcelain") == before
        assert (restored.tree / "new" / "file").read_text() == "2\n"
        changes = await workspaces.collect(restored)
        assert [made.subject for made in changes.commits] == ["work"]
        assert changes.diff_stat.files == 4

    async def test_without_any_change_it_begins_where_it_began(
        self, workspaces: Workspaces, workspace: Workspace, repository: Repository, source: Path
    ) -> None:
        await workspaces.collect(workspace)
        await workspaces.remove(workspace)
        commit(source, {"later": "x"}, "the branch goes on")
        restored = await self.again(workspaces, repository)
        assert git(restored.tree, "rev-parse", "HEAD") == workspace.base
        assert not await workspaces.collect(restored)

    async def test_what_was_undone_stays_undone(
        self, workspaces: Workspaces, workspace: Workspace, repository: Repository
    ) -> None:
        """Commits and files of the first round that the second one threw away do not come back in the third."""
        head = commit(workspace.tree, {"done": "1\n"}, "work")
        write(workspace.tree, {"loose": "2\n"})
        await workspaces.remove(workspace)
        second = await self.again(workspaces, repository)
        (second.tree / "loose").unlink()
        git(second.tree, "reset", "-q", "--hard", second.base)
        changes = await workspaces.collect(second)
        assert (list(changes.commits), changes.preserved_ref) == ([], None)
        await workspaces.remove(second)
        third = await self.again(workspaces, repository)
        assert git(third.tree, "rev-parse", "HEAD") == third.base
        assert git(third.tree, "status", "--porcelain") == ""
        # They are not lost either.
        assert git(mirror_of(third), "rev-parse", f"refs/hubspoke/earlier/{AGENT}/{head}") == head

    @pytest.mark.fault(30)
    async def test_what_a_lost_attempt_left_is_where_the_next_one_goes_on(
        self, workspaces: Workspaces, workspace: Workspace, repository: Repository
    ) -> None:
        await workspaces.remove(workspace)
        lost = await self.again(workspaces, repository)
        head = commit(lost.tree, {"half": "1\n"}, "half")
        write(lost.tree, {"loose": "2\n"})
        restored = await self.again(workspaces, repository)
        assert git(restored.tree, "rev-parse", "HEAD") == head
        assert git(restored.tree, "status", "--porcelain") == "?? loose"

    @pytest.mark.fault(30)
    @pytest.mark.parametrize("step", ["_delete", "_check_out", "change_refs"])
    async def test_cut_off_anywhere_nothing_is_lost(
        self, workspaces: Workspaces, workspace: Workspace, repository: Repository, monkeypatch: pytest.MonkeyPatch,
        step: str,
    ) -> None:  # fmt: skip
        head = commit(workspace.tree, {"done": "1\n"}, "work")
        write(workspace.tree, {"loose": "2\n"})
        await workspaces.remove(workspace)
        target = Mirror if step == "change_refs" else Workspaces
        whole, calls = getattr(target, step), 0

        async def cut(*arguments: object) -> None:
            nonlocal calls
            calls += 1
            # The first change of refs only adds; the second one comes last of all.
            if step == "change_refs" and calls == 1:
                await whole(*arguments)
            else:
                raise asyncio.CancelledError

        with monkeypatch.context() as patch:
            patch.setattr(target, step, cut)
            with pytest.raises(asyncio.CancelledError):
                await self.again(workspaces, repository)
        restored = await self.again(workspaces, repository)
        assert git(restored.tree, "rev-parse", "HEAD") == head
        assert git(restored.tree, "status", "--porcelain") == "?? loose"

    async def test_one_that_was_never_made_is_prepared(
        self, workspaces: Workspaces, repository: Repository, source: Path
    ) -> None:
        made = await self.again(workspaces, repository)
        assert made.base == git(source, "rev-parse", "main")

    @pytest.mark.parametrize("is_related", [True, False])
    async def test_what_an_earlier_release_kept_without_its_beginning_is_found(
        self, workspaces: Workspaces, workspace: Workspace, repository: Repository, source: Path, is_related: bool
    ) -> None:
        if not is_related:
            git(workspace.tree, "checkout", "-q", "--orphan", "another")
        head = commit(workspace.tree, {"done": "1\n"}, "work")
        write(workspace.tree, {"loose": "2\n"})
        await workspaces.remove(workspace)
        git(mirror_of(workspace), "update-ref", "-d", f"refs/hubspoke/bases/{AGENT}")
        tip = commit(source, {"later": "x"}, "the branch goes on")
        restored = await self.again(workspaces, repository)
        assert git(restored.tree, "rev-parse", "HEAD") == head
        assert git(restored.tree, "status", "--porcelain") == "?? loose"
        assert restored.base == (workspace.base if is_related else tip)
