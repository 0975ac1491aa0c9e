"""Where a node listens, as it is written: `HOST:PORT`, `[::1]:8700` for IPv6. Decides the form only, opens nothing."""

from __future__ import annotations

from typing import Final

from common.errors import LocalError

_MAX_PORT: Final = 65_535


def parse_listen(listen: str) -> tuple[str, int]:
    """Split `HOST:PORT` into host without brackets and port (0 takes a free one); raises `LocalError` `config`."""
    host, colon, port = listen.rpartition(":")
    is_port = port.isascii() and port.isdecimal() and int(port) <= _MAX_PORT
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not bare or not is_port or (":" in bare and bare == host):
        raise LocalError(f"listen is HOST:PORT or [IPV6]:PORT, such as 127.0.0.1:8700, not {listen!r}", code="config")
    return bare, int(port)
