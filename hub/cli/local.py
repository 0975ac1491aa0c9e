"""The hub's own files, and the way to the running node, for the commands that need them."""

from __future__ import annotations

import os
from collections.abc import Coroutine, Iterator
from contextlib import closing, contextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit

from common.audit_file import acting
from common.configuration import default_directory
from common.directory import announced_url
from common.interruptible import run_async
from common.keyfiles import load_token
from common.logs import configure_quietly
from hub.cli.output import invocation
from hub.client import HubClient, NodeUnreachable
from hub.node import Hub
from hub.settings import HubDirectory, load
from hub.tokens import TokenStore

T = TypeVar("T")


def directory() -> HubDirectory:
    """Return the hub's directory, as `--dir`, `HUB_DIR` or the default say."""
    return HubDirectory(invocation().directory or default_directory("hub"))


def load_hub() -> Hub:
    """Read the hub's settings, key and token; raises `ConfigError`, `KeyFileError`."""
    place = directory()
    return Hub.load(place, load(place))


@contextmanager
def open_trust(hub: Hub) -> Iterator[Any]:
    """Open the trust store, also beside a running node, which sees every change at once; all of them are audited."""
    configure_quietly()
    with closing(hub.open_audit()) as audit, closing(hub.open_trust(audit)) as trust, acting(f"cli:{os.getuid()}"):
        yield trust


@contextmanager
def open_tokens(hub: Hub) -> Iterator[TokenStore]:
    """Open the tokens, also beside a running node, which sees every change at once; all of them are audited."""
    configure_quietly()
    with (
        closing(hub.open_audit()) as audit,
        closing(TokenStore(hub.directory.trust_file, audit.tell)) as tokens,
        acting(f"cli:{os.getuid()}"),
    ):
        yield tokens


def node_url(place: HubDirectory) -> str:
    """Return where the node answers on this machine; raises `NodeUnreachable` when none runs there.

    Never where the configuration says that it would listen: the token would go to whoever listens there instead.
    """
    url = announced_url(place.path)
    if url is None:
        raise NodeUnreachable(f"no hub runs on {place.path}; start it with hub serve")
    return _reachable(url)


def _reachable(url: str) -> str:
    parts = urlsplit(url)
    anywhere = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104  # compared with, not bound to
    return f"{parts.scheme}://{anywhere[parts.hostname]}:{parts.port}" if parts.hostname in anywhere else url


def client() -> HubClient:
    """Return a client of the node; raises `ConfigError`, `KeyFileError`, `NodeUnreachable`, `TlsError`."""
    place = directory()
    settings = load(place)
    url, tls = node_url(place), settings.tls.of_oneself(place.path)
    return HubClient(url, load_token(place.token_file), tls, lambda: _is_at(place, url), os.environ.get("TRACEPARENT"))


def _is_at(place: HubDirectory, url: str) -> bool:
    announced = announced_url(place.path)
    return announced is not None and _reachable(announced) == url


def ask(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run one command's conversation with the node."""
    return run_async(coroutine)
