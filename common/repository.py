"""Reads the repository that a spawn names and decides whether a policy's glob covers it.

Decides one meaning per text: every spelling of a place (case of the host, default port, `%61` for `a`, a trailing
`/` or `.git`, scp-like or `ssh://`) has one `normalised` form, and only that is matched. A spelling that git and a
server may read differently is refused, not resolved: `.` and `..`, empty segments, an encoded `/` or `%`, queries.
Refused as `invalid`: passwords, options in disguise, control characters. Refused as `not_allowed`: transports other
than https, ssh and file, local paths (attack rows 39, 50, 51). Whether `file://` is welcome is the policy's business.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from urllib.parse import quote_from_bytes, unquote_to_bytes

from common.errors import Invalid, NotAllowed

MAX_REPOSITORY: Final = 2048
DEFAULT_PORT: Final = {"https": 443, "ssh": 22}
# A batch of a thousand spawns names few repositories, and each is looked at three times on its way.
_REMEMBERED: Final = 1024
_MAX_HOST: Final = 253
_MAX_PORT: Final = 65_535

_PRINTABLE: Final = re.compile(r"[!-~]+\Z")
_URL: Final = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/]*)(?P<path>.*)\Z")
_REMOTE_HELPER: Final = re.compile(r"[A-Za-z0-9+.-]*::")
_SCP_LIKE: Final = re.compile(r"(?P<user>[^/:@]+)@(?P<host>[^/:@]+):(?P<path>.*)\Z")
_PORT: Final = re.compile(r"[1-9][0-9]{0,4}\Z")
_USER: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._~+-]*\Z")
_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?\Z")
_NUMERIC_LABEL: Final = re.compile(r"([0-9]+|0x[0-9a-f]*)\Z")
_BROKEN_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")

# RFC 3986 pchar without `%`: what may stand for itself in a path. quote() adds letters, digits and `_.-~`.
_PATH_LITERALS: Final = "!$&'()*+,;=:@/"
_PATH: Final = re.compile(r"[A-Za-z0-9_.~!$&'()*+,;=:@/%-]*\Z")


@dataclass(frozen=True, slots=True)
class Repository:
    """A place that git can fetch from, taken apart; made by `parse_repository` only.

    `path` has neither a leading nor a trailing slash and keeps its `.git`. `scp_like` remembers the spelling, because
    `git@host:app` is relative to the login's home and `ssh://git@host/app` is not.
    """

    scheme: str
    user: str | None
    host: str
    port: int | None
    path: str
    scp_like: bool = False
    absolute: bool = True

    @property
    def url(self) -> str:
        """The canonical text to hand to git."""
        if self.scp_like:
            return f"{self.user}@{self.host}:{'/' if self.absolute else ''}{self.path}"
        return f"{self.scheme}://{self._authority}/{self.path}"

    @property
    def normalised(self) -> str:
        """What policies match: the same text for every spelling of the same place."""
        return f"{self.scheme}://{self._authority}/{self.path.removesuffix('.git')}"

    @property
    def _authority(self) -> str:
        user = f"{self.user}@" if self.user else ""
        port = f":{self.port}" if self.port else ""
        return f"{user}{self.host}{port}"


@lru_cache(maxsize=_REMEMBERED)
def parse_repository(text: str) -> Repository:
    """Read `https://`, `ssh://`, `file://` or `user@host:path`, at most 2048 printable ASCII characters.

    Raises `Invalid` for what no spoke should hand to git, `NotAllowed` for other transports (attack rows 39, 50, 51).
    No message repeats the text: it may hold a password.
    """
    if len(text) > MAX_REPOSITORY:
        raise Invalid(f"repository: longer than {MAX_REPOSITORY} characters")
    if _REMOTE_HELPER.match(text):
        raise NotAllowed("repository: remote helpers (name::address) are not allowed; use https or ssh")
    if not _PRINTABLE.match(text):
        raise Invalid("repository: empty, or has white space, control or non-ASCII characters; percent-encode them")
    if text.startswith("-"):
        raise Invalid("repository: begins with '-', which git would read as an option")
    if url := _URL.match(text):
        return _parse_url(url["scheme"].lower(), url["authority"], url["path"])
    if scp := _SCP_LIKE.match(text):
        return _parse_scp_like(scp["user"], scp["host"], scp["path"])
    raise NotAllowed("repository: neither https://, ssh://, file:// nor user@host:path; local paths are not allowed")


def _parse_url(scheme: str, authority: str, path: str) -> Repository:
    if scheme == "file":
        if authority:
            raise Invalid("repository: a file:// URL names no host, write file:///path")
        return Repository(scheme, None, "", None, _check_path(path))
    if scheme not in DEFAULT_PORT:
        raise NotAllowed("repository: this transport is not allowed; use https or ssh")
    user, _, address = authority.rpartition("@")
    host, port = _split_port(scheme, address)
    checked_user = _check_user(user) if "@" in authority else None
    return Repository(scheme, checked_user, _check_host(host), port, _check_path(path))


def _parse_scp_like(user: str, host: str, path: str) -> Repository:
    if "%" in path:
        raise Invalid("repository: user@host:path takes no percent-encoding; write ssh://user@host/path")
    absolute = path.startswith("/")
    if path.startswith("-"):
        raise Invalid("repository: the path begins with '-', which the other side would read as an option")
    relative = _check_path(path if absolute else f"/{path}")
    return Repository("ssh", _check_user(user), _check_host(host), None, relative, scp_like=True, absolute=absolute)


def _split_port(scheme: str, address: str) -> tuple[str, int | None]:
    host, colon, digits = address.rpartition(":")
    if not colon or digits.endswith("]"):
        return address, None
    if not _PORT.match(digits) or int(digits) > _MAX_PORT:
        raise Invalid("repository: the port is no number from 1 to 65535")
    port = int(digits)
    return host, None if port == DEFAULT_PORT[scheme] else port


def _check_user(user: str) -> str:
    if ":" in user:
        raise Invalid("repository: a URL must not carry a password; give the spoke its own credentials")
    if not _USER.match(user):
        raise Invalid("repository: bad user name before '@'")
    return user


def _check_host(host: str) -> str:
    """Return the host in lower case; numbers count as a host only as one canonical IPv4 or bracketed IPv6 address."""
    name = host.lower()
    labels = name.split(".")
    try:
        if name.startswith("[") and name.endswith("]") and "%" not in name:
            return f"[{ipaddress.IPv6Address(name[1:-1])}]"
        if len(name) > _MAX_HOST or not all(_LABEL.match(label) for label in labels):
            raise Invalid("repository: bad host name")
        # curl reads 2130706433 and 0x7f.1 as 127.0.0.1: one address, one spelling.
        return str(ipaddress.IPv4Address(name)) if _NUMERIC_LABEL.match(labels[-1]) else name
    except ipaddress.AddressValueError as error:
        raise Invalid("repository: the host is no canonical IP address") from error


def _check_path(path: str) -> str:
    canonical = _canonical_path(path).rstrip("/")
    segments = canonical.split("/")[1:]
    if not segments:
        raise Invalid("repository: names no path on its host")
    if any(segment in {"", ".", ".."} for segment in segments):
        raise Invalid("repository: the path has empty, '.' or '..' segments; write it resolved")
    if segments[-1].lower() == ".git":
        raise Invalid("repository: the path ends with '/.git'; name the repository that holds it")
    return "/".join(segments)


def _canonical_path(path: str) -> str:
    """Return `path` with each octet in its one spelling: as itself where it may stand, else as `%` and upper case."""
    if not _PATH.match(path) or _BROKEN_ESCAPE.search(path):
        raise Invalid("repository: the path has characters that a URL must percent-encode, or a query")
    octets = unquote_to_bytes(path)
    if octets.count(b"/") != path.count("/") or b"%" in octets or b"\\" in octets:
        raise Invalid("repository: the path hides '/', '%' or a backslash behind percent-encoding")
    try:
        decoded = octets.decode()
    except UnicodeDecodeError as error:
        raise Invalid("repository: the path is no UTF-8 when decoded") from error
    if any(character != " " and unicodedata.category(character)[0] in "CZ" for character in decoded):
        raise Invalid("repository: the path hides control characters behind percent-encoding")
    return quote_from_bytes(octets, safe=_PATH_LITERALS)


def match_repository(globs: Iterable[str], repository: Repository) -> str | None:
    """Return the first glob that covers `repository`, or None; no glob means nothing is covered (attack row 39).

    `*` stands for part of one segment (or of the host or user), a segment `**` for any number of segments, at the end
    for at least one. `scheme://**` covers a scheme, `**` everything. A glob without a user covers no URL with one.
    A glob that cannot be read covers nothing; `check_glob` says why.
    """
    return _first_cover(tuple(globs), repository.normalised)


@lru_cache(maxsize=_REMEMBERED)
def _first_cover(globs: tuple[str, ...], normalised: str) -> str | None:
    return next((glob for glob in globs if _covers(glob, normalised)), None)


def check_glob(glob: str) -> str:
    """Return `glob` when it can be matched, else raise `Invalid`: for whoever takes a policy from an operator."""
    _compile(glob)
    return glob


def _covers(glob: str, normalised: str) -> bool:
    try:
        return _compile(glob).match(normalised) is not None
    except Invalid:
        return False


@lru_cache(maxsize=1024)
def _compile(glob: str) -> re.Pattern[str]:
    if glob == "**":
        return re.compile("")
    scheme, authority, path = _split_glob(glob)
    if authority == "**" and path in {"", "/", "/**"}:
        return re.compile(re.escape(f"{scheme}://"))
    return re.compile(re.escape(f"{scheme}://") + _authority_pattern(scheme, authority) + _path_pattern(path) + r"\Z")


def _split_glob(glob: str) -> tuple[str, str, str]:
    if url := _URL.match(glob):
        return url["scheme"].lower(), url["authority"], url["path"]
    if scp := _SCP_LIKE.match(glob):
        return "ssh", f"{scp['user']}@{scp['host']}", f"/{scp['path'].removeprefix('/')}"
    raise Invalid("repository glob: write scheme://host/path, user@host:path or **")


def _authority_pattern(scheme: str, authority: str) -> str:
    if "**" in authority:
        raise Invalid("repository glob: '**' crosses no host; write '*' for part of a host")
    user, at, address = authority.rpartition("@")
    text = f"{user}{at}{address.lower().removesuffix(f':{DEFAULT_PORT.get(scheme)}')}"
    return re.escape(text).replace(r"\*", "[^/@:]*")


def _path_pattern(path: str) -> str:
    segments = _check_path(path).removesuffix(".git").split("/")
    # One of several `**` in a row says it all, and keeps the pattern from backtracking.
    single = [part for part, after in zip(segments, [*segments[1:], ""], strict=True) if (part, after) != ("**", "**")]
    last = r"/.+" if single[-1] == "**" else "/" + _segment_pattern(single[-1])
    between = [r"(?:/[^/]+)*" if segment == "**" else "/" + _segment_pattern(segment) for segment in single[:-1]]
    return "".join([*between, last])


def _segment_pattern(segment: str) -> str:
    return re.sub(r"(?:\\\*)+", "[^/]*", re.escape(segment))
