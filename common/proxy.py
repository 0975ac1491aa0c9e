"""Which proxy an outgoing call takes: what HTTPS_PROXY, HTTP_PROXY and NO_PROXY say, in either case, and nothing else.

aiohttp's own reading of the environment is not used: it also takes credentials from `.netrc` and sends them to peers.
This machine itself is never reached through a proxy. NO_PROXY is a list of names (with all below them), addresses,
networks, or `*`; a port narrows an entry.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from common.errors import LocalError
from common.peer_url import is_loopback

_PORTS: Final = {"http": 80, "https": 443}


def _setting(name: str, environment: Mapping[str, str]) -> str:
    return environment.get(name.lower()) or environment.get(name.upper()) or ""


def _is_in_network(host: str, entry: str) -> bool:
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return False


def _spares(entry: str, host: str, port: int) -> bool:
    if entry == "*" or _is_in_network(host, entry):
        return True
    name, colon, entry_port = entry.rpartition(":")
    if not colon or not entry_port.isdecimal():
        name, entry_port = entry, str(port)
    name = name.strip("[]").removeprefix("*").removeprefix(".")
    return bool(name) and int(entry_port) == port and (host == name or host.endswith(f".{name}"))


def proxy_for(url: str, environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the URL of the proxy for `url` (http or https), None to go straight.

    Raises `LocalError` `config` for a proxy that is not reached by HTTP.
    """
    target = urlsplit(url)
    proxy = _setting(f"{target.scheme}_proxy", environment)
    if not proxy or is_loopback(url):
        return None
    host, port = (target.hostname or "").rstrip("."), target.port or _PORTS[target.scheme]
    if any(_spares(entry.strip().lower(), host, port) for entry in _setting("no_proxy", environment).split(",")):
        return None
    if "://" not in proxy:
        proxy = f"http://{proxy}"
    if not proxy.startswith("http://"):
        raise LocalError(f"{target.scheme.upper()}_PROXY must be http://host:port", code="config")
    return proxy
