"""Clients of Valkey as this project needs them, and the check that a server keeps what it acknowledges.

Decides the client's settings: no retries (a lost reply of a write must not become a second write), a deadline on every
call except on the client for blocking reads. Refuses a server that is open to the network without a password (attack
row 60), URL options that would weaken the client, and a server that may evict or lose what it acknowledged.

Foreign exceptions end here: `translated()` turns those of redis-py into `Unavailable`.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import parse_qsl, urlsplit

from redis.asyncio import Redis
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import DataError, RedisError, ResponseError
from redis.maint_notifications import MaintNotificationsConfig

from common.errors import LocalError, Unavailable
from common.valkey_connection import CONNECTION_CLASSES, DirectoryConnection, FairPool

CALL_TIMEOUT_S: Final = 5.0
CONNECT_TIMEOUT_S: Final = 5.0
MAX_CONNECTIONS: Final = 64
_URL_OPTIONS: Final = frozenset({"db", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile"})
_SCHEMES: Final = {"valkey": "redis", "valkeys": "rediss"}
"""Valkey's own names of what redis-py knows under the older ones."""
_NAMED_USER: Final = re.compile(r"User \S+ has")
_DURABLE: Final = {"maxmemory-policy": "noeviction", "appendonly": "yes", "appendfsync": "always"}


def connect(where: str | Path) -> Redis:
    """Return a client of a URL (`valkey://`, `valkeys://`, `unix://`, …) or of an embedded server's directory.

    Every call ends within `CALL_TIMEOUT_S` and is sent at most once. Nothing is connected yet; close it with
    `aclose()` or use `async with`. Raises `LocalError`: `valkey_open` (attack row 60), `valkey_url`.
    """
    return _client(where, CALL_TIMEOUT_S)


def connect_blocking(where: str | Path) -> Redis:
    """Return a client like `connect` without a deadline on answers, for blocking reads and pub/sub only."""
    return _client(where, None)


def _client(where: str | Path, answer_timeout_s: float | None) -> Redis:
    target = _embedded_target(where) if isinstance(where, Path) else _url_target(where)
    # More callers than connections wait for one in turn, instead of being refused.
    pool = FairPool(
        **target,
        max_connections=MAX_CONNECTIONS,
        wait_s=CALL_TIMEOUT_S,
        answer_timeout_s=answer_timeout_s,
        socket_timeout=None,  # common.valkey_connection keeps the deadline, and says why
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
        decode_responses=False,
        driver_info=None,  # it would be told to the server, for which our user needed one more right
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
    )
    return _Client.from_pool(pool)


class _Client(Redis):
    """Closes its connections also when whoever closes it is cancelled; redis-py leaves them open then."""

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        closing = asyncio.ensure_future(super().aclose(close_connection_pool))
        try:
            await asyncio.shield(closing)
        except asyncio.CancelledError:
            await closing
            raise

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def _embedded_target(directory: Path) -> dict[str, Any]:
    return {"connection_class": DirectoryConnection, "path": str(directory.absolute())}


def _url_target(url: str) -> dict[str, Any]:
    scheme, separator, rest = url.partition("://")
    url = _SCHEMES.get(scheme, scheme) + separator + rest
    try:
        target = dict(parse_url(url))  # the parser of the library that connects: no second reading of the same URL
        parts = urlsplit(url)
        options = {name for name, _ in parse_qsl(parts.query, keep_blank_values=True)}
        if not (parts.path if parts.scheme == "unix" else parts.hostname):
            raise ValueError("no address")
    except ValueError as error:
        raise LocalError(
            "the Valkey URL cannot be read: write valkeys://, valkey://, rediss://, redis:// or unix:// and an address",
            code="valkey_url",
        ) from error
    if unknown := sorted(options - _URL_OPTIONS):
        raise LocalError(
            f"the Valkey URL has options that are not supported: {', '.join(unknown)}; "
            f"known are {', '.join(sorted(_URL_OPTIONS))}",
            code="valkey_url",
        )
    _refuse_open(target)
    _check_certificates(target)
    return target | {"connection_class": CONNECTION_CLASSES[parts.scheme]}


def _check_certificates(target: dict[str, Any]) -> None:
    """Read the files of the URL once: what is wrong with them is known now, and not at some later connection."""
    given = ", ".join(str(target[name]) for name in sorted(_URL_OPTIONS - {"db"}) if name in target)
    if not given:
        return
    try:
        context = ssl.create_default_context(cafile=target.get("ssl_ca_certs"))
        if certificate := target.get("ssl_certfile"):
            context.load_cert_chain(certificate, target.get("ssl_keyfile"))
    except (OSError, ValueError) as error:  # SSLError is an OSError
        raise LocalError(f"the Valkey URL names files that cannot be used: {given}", code="valkey_url") from error


def _refuse_open(target: dict[str, Any]) -> None:
    host = target.get("host", "localhost")
    if "path" in target or "password" in target or _is_loopback(host):
        return
    raise LocalError(
        f"Valkey at {host} has no password and everyone on its network could write commands: "
        "set requirepass there and put the password into the URL (valkeys://USER:PASSWORD@HOST)",
        code="valkey_open",
    )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def travels_in_the_clear(url: str) -> bool:
    """Whether what is said to that server leaves this machine without TLS; raises as `connect` does."""
    target = _url_target(url)
    return target["connection_class"] is CONNECTION_CLASSES["redis"] and not _is_loopback(
        target.get("host", "localhost")
    )


@contextmanager
def translated() -> Iterator[None]:
    """Turn redis-py's exceptions inside the block into `Unavailable`, except those about our own arguments."""
    try:
        yield
    except DataError:
        raise
    except RedisError as error:
        # Valkey says who has no permission for what; the name of our user is nobody's business.
        first_line = _NAMED_USER.sub("this user has", (str(error).splitlines() or [""])[0])[:200]
        raise Unavailable(f"Valkey is not available ({type(error).__name__}: {first_line}); try again later") from error


async def check_durability(client: Redis, allow_data_loss: bool) -> tuple[str, ...]:
    """Raise `LocalError` `valkey_not_durable` unless the server keeps what it acknowledges.

    Returns the shortfalls, one line each, that `allow_data_loss` let pass, for the log. A replica is refused in any
    case: it takes no writes, or loses them. Raises `Unavailable` when the server does not answer.
    """
    with translated():
        replication = await client.info("replication")
        settings = await _settings(client)
    if replication["role"] != "master":
        raise LocalError("this Valkey is a replica: name its primary in [valkey] url", code="valkey_not_durable")
    shortfalls = _shortfalls(settings)
    if shortfalls and not allow_data_loss:
        raise LocalError(f"Valkey may lose what it acknowledged: {'; '.join(shortfalls)}", code="valkey_not_durable")
    return shortfalls


async def _settings(client: Redis) -> dict[str, str] | None:
    try:
        return {str(name): str(value) for name, value in (await client.config_get(*_DURABLE)).items()}
    except ResponseError:  # not permitted, renamed or unknown: managed servers do all three
        return None


def _shortfalls(settings: dict[str, str] | None) -> tuple[str, ...]:
    if settings is None:
        return ("it does not let us read its CONFIG, so nothing is promised: permit CONFIG GET to this user",)
    return tuple(
        f"{name} is {settings.get(name)}: CONFIG SET {name} {wanted}, and in its configuration file"
        for name, wanted in _DURABLE.items()
        if settings.get(name) != wanted
    )
