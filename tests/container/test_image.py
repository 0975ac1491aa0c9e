"""The Containerfile, built by buildah on a root of Debian's packages, and both images run as process 1.

There is no registry here, so Debian's own Python takes the place of the base image, and no container runtime may set
the limits it wants; so an image's root is entered by `unshare` and `chroot`, as the user and with the command,
environment and volume that the image names. `Podman` does so for the commands of docs/operations.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from tests.docs.blocks import Block, of_kind
from tests.integration.common.test_init_process import children_of
from tests.integration.spoke.repositories import make_repository
from tests.spoke_node import DEADLINE_S, eventually, until

pytestmark = [pytest.mark.container, pytest.mark.timeout(1200)]
CHECKOUT: Final = Path(__file__).parents[2]
BASE: Final = "localhost/hubspoke-test-base"
PACKAGES: Final = "ca-certificates,python3,python3-venv"
AUTHORITIES: Final = "/etc/ssl/certs/ca-certificates.crt"
BUILD: Final = ("build", "--isolation", "chroot", "--network", "host", "--pull=never", "--layers", "--format", "docker")
ENTER: Final = """\
root=$1 user=$2; shift 2
mount --bind "$DATA" "$root/data" && mount -t proc proc "$root/proc" && mount --rbind /dev "$root/dev" &&
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp" && exec chroot --userspec="$user" "$root" /usr/bin/env -i -C /data "$@"
"""


def run(*command: str | Path) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout.strip()


@dataclass
class Image:
    """One image, its root on this machine, and a volume."""

    config: dict[str, Any]
    root: Path
    data: Path
    extra: tuple[str, ...] = ()
    """Variables that its caller adds to its own."""

    def command(self, *arguments: str) -> list[str]:
        """Return what runs the image's entry point as process 1, with these arguments or its own."""
        own = [*self.config["Entrypoint"], *(arguments or self.config["Cmd"])]
        return [
            *("unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", ENTER, "enter"),
            *(str(self.root), self.config["User"], *self.config["Env"], *self.extra, *own),
        ]

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "DATA": str(self.data)}

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments), env=self.environment, capture_output=True, text=True, timeout=120, check=False
        )

    @contextmanager
    def serving(self) -> Iterator[tuple[int, str]]:
        """Serve; yields the process id of process 1 and the URL, ends it by the image's stop signal."""
        output = self.data.with_suffix(".output")
        with output.open("wb") as out, self.data.with_suffix(".log").open("wb") as log:
            process = subprocess.Popen(self.command(), env=self.environment, stdout=out, stderr=log)
        try:
            until(lambda: output.read_text().startswith("ready ") or process.poll() is not None, "it is ready", 120)
            assert process.poll() is None, self.data.with_suffix(".log").read_text()
            (first,) = children_of(process.pid)
            yield first, output.read_text().split()[1]
            os.kill(first, signal.Signals[self.config["StopSignal"]])
            assert process.wait(DEADLINE_S) == 0
        finally:
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image of Debian's packages, in the place of python:3.11-slim."""
    archive = tmp_path_factory.mktemp("base") / "root.tar"
    run("mmdebstrap", "--quiet", "--variant=minbase", f"--include={PACKAGES}", "bookworm", archive)
    container = run("buildah", "from", "scratch")
    run("buildah", "add", "--quiet", container, archive, "/")
    run("buildah", "commit", "--quiet", "--rm", container, BASE)
    archive.unlink()
    return BASE


@pytest.fixture(scope="session")
def make_image(base: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Image]]:
    place = tmp_path_factory.mktemp("images")
    (place / "pip.conf").write_text(f"[global]\ncert = {AUTHORITIES}\n")  # this machine's, whoever signs its downloads
    containers: list[str] = []

    def make(target: str) -> Image:
        mounts = [f"{AUTHORITIES}:{AUTHORITIES}:ro", f"{place / 'pip.conf'}:/etc/pip.conf:ro"]
        volumes = [part for mount in mounts for part in ("--volume", mount)]
        tag = f"localhost/hubspoke-test-{target}"
        run("buildah", *BUILD, *volumes, "--build-arg", f"BASE={base}", "--target", target, "--tag", tag, CHECKOUT)
        config = json.loads(run("buildah", "inspect", "--type", "image", tag))["Docker"]["config"]
        containers.append(run("buildah", "from", "--pull=never", tag))
        data = place / f"data-{len(containers)}"
        data.mkdir(mode=0o700)
        os.chown(data, *(int(number) for number in config["User"].split(":")))
        return Image(config, Path(run("buildah", "mount", containers[-1])), data)

    yield make
    for container in containers:
        run("buildah", "rm", container)


@pytest.mark.parametrize("target", ["hub", "spoke"])
def test_an_image_is_not_root_and_says_how_it_is_watched_and_stopped(
    make_image: Callable[[str], Image], target: str
) -> None:
    image = make_image(target)
    config = image.config
    assert (config["User"], config["StopSignal"], list(config["Volumes"])) == ("10001:10001", "SIGTERM", ["/data"])
    health = config["Healthcheck"]["Test"]
    assert health == ["CMD", target, "ready"]
    assert [entry.name for entry in (image.root / "srv" / "hubspoke").iterdir()] == [".venv"]
    done = image.run("init", f"{target}-1", "--listen", "127.0.0.1:0")
    assert done.returncode == 0, done.stderr
    assert image.run(*health[2:]).returncode == 3
    with image.serving():
        assert image.run(*health[2:]).stdout.split()[-1] == "ready"
    assert image.run(*health[2:]).returncode == 3


async def test_agents_run_in_it_and_leave_no_zombie(make_image: Callable[[str], Image]) -> None:
    image = make_image("spoke")
    assert image.run("init", "build-1", "--listen", "127.0.0.1:0").returncode == 0
    leaves_orphans = ["sh", "-c", "cat >/dev/null; (sleep 0.2 & setsid sleep 0.4 &); exit 0"]
    settings = image.data / "spoke.toml"
    worker = f'[agents.worker]\nprofile = "command"\ncommand = {json.dumps(leaves_orphans)}\n'
    settings.write_text(settings.read_text().partition("[agents.worker]")[0] + worker)
    make_repository(image.data / "repository")
    run("chown", "--recursive", image.config["User"], image.data)
    with image.serving() as (first, url):
        token = (image.data / "local.token").read_text().strip()
        context = {"repository": "file:///data/repository", "branch": "main", "workItems": ["x"]}
        body = {"taskId": "T-1", "agentType": "worker", "context": context}
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as session:
            for _ in range(3):
                async with session.post(f"{url}/agents/spawn", json=body) as response:
                    assert response.status == 201, await response.text()

            async def ended() -> bool:
                async with session.get(f"{url}/agents") as response:
                    agents = (await response.json())["agents"]
                return [agent["status"] for agent in agents] == ["completed"] * 3

            await eventually(ended, "all are completed")
        await eventually(lambda: len(children_of(first)) == 1, "process 1 has reaped all but the node")


@dataclass
class Podman:
    """Does what a command says with an image's root; refuses a command or an option that nobody thought of."""

    make_image: Callable[[str], Image]
    images: dict[str, Image] = field(default_factory=dict)
    running: dict[str, tuple[Image, int, ExitStack]] = field(default_factory=dict)

    def type(self, line: str) -> None:
        program, verb, *words = shlex.split(line, comments=True)
        assert program == "podman"
        getattr(self, f"_{verb}")(words)

    def _build(self, words: list[str]) -> None:
        parser = argparse.ArgumentParser(exit_on_error=False)
        for option in ("--format", "--target", "-t"):
            parser.add_argument(option, required=True)
        parser.add_argument("context", choices=["."])
        said = parser.parse_args(words)
        assert said.format == "docker"
        self.images[said.t] = self.make_image(said.target)

    def _run(self, words: list[str]) -> None:
        parser = argparse.ArgumentParser(exit_on_error=False)
        for option in ("-v", "-p", "--name"):
            parser.add_argument(option)
        parser.add_argument("-e", action="append", default=[])
        parser.add_argument("--rm", action="store_true")
        parser.add_argument("-d", action="store_true")
        parser.add_argument("image")
        parser.add_argument("arguments", nargs=argparse.REMAINDER)
        said = parser.parse_args(words)
        image = self.images[said.image]
        assert said.v.partition(":")[2] in image.config["Volumes"]
        image.extra = tuple(said.e)
        if said.rm:
            done = image.run(*said.arguments)
            assert done.returncode == 0, done.stderr
            return
        assert said.d
        assert not said.arguments
        if said.p is not None:
            assert [f"{said.p.rpartition(':')[2]}/tcp"] == list(image.config["ExposedPorts"])
        stack = ExitStack()
        first, _ = stack.enter_context(image.serving())
        self.running[said.name] = image, first, stack

    def _exec(self, words: list[str]) -> None:
        name, program, *arguments = words
        image = self.running[name][0]
        assert [program] == image.config["Entrypoint"]
        done = image.run(*arguments)
        assert done.returncode == 0, done.stderr

    def _kill(self, words: list[str]) -> None:
        option, name, of = words
        assert option == "--signal"
        image, first, _ = self.running[of]
        os.kill(first, signal.Signals[f"SIG{name}"])
        until(lambda: "settings." in image.data.with_suffix(".log").read_text(), "it has read its settings", 30)

    def _stop(self, words: list[str]) -> None:
        (name,) = words
        self.running.pop(name)[2].close()

    def close(self) -> None:
        """Stop what a command that failed has left running."""
        for _, _, stack in self.running.values():
            stack.close()


@pytest.mark.parametrize("block", of_kind("container"), ids=str)
def test_the_commands_of_the_page(make_image: Callable[[str], Image], block: Block) -> None:
    podman = Podman(make_image)
    try:
        for line in filter(None, block.text.splitlines()):
            podman.type(line)
    finally:
        podman.close()
    assert podman.running == {}
