from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import CommandRefused, Invalid, NotAllowed
from common.repository import MAX_REPOSITORY, check_glob, match_repository, parse_repository

SPELLINGS = {
    "https": (
        "https://git.example.org/team/app.git",
        "https://git.example.org/team/app.git",
        "https://git.example.org/team/app",
    ),
    "case, default port, trailing slash": (
        "HTTPS://Git.Example.ORG:443/Team/App.git/",
        "https://git.example.org/Team/App.git",
        "https://git.example.org/Team/App",
    ),
    "other port": ("https://h:8443/a", "https://h:8443/a", "https://h:8443/a"),
    "user of https": ("https://bot@h/a", "https://bot@h/a", "https://bot@h/a"),
    "ssh": ("ssh://git@h:22/team/app", "ssh://git@h/team/app", "ssh://git@h/team/app"),
    "ssh port": ("ssh://git@h:2222/app.git", "ssh://git@h:2222/app.git", "ssh://git@h:2222/app"),
    "scp-like": ("git@H.example:team/app.git", "git@h.example:team/app.git", "ssh://git@h.example/team/app"),
    "scp-like, absolute": ("git@h:/srv/app", "git@h:/srv/app", "ssh://git@h/srv/app"),
    "ssh home": ("ssh://me@h/~me/app", "ssh://me@h/~me/app", "ssh://me@h/~me/app"),
    "file": ("file:///srv/git/app.git", "file:///srv/git/app.git", "file:///srv/git/app"),
    "encoded letters": ("https://h/te%61m/%61pp%2Egit", "https://h/team/app.git", "https://h/team/app"),
    "encoded space and umlaut": (
        "https://h/my%20proj/%c3%a4",
        "https://h/my%20proj/%C3%A4",
        "https://h/my%20proj/%C3%A4",
    ),
    "ends with a capital X": ("https://h/appX", "https://h/appX", "https://h/appX"),
    "the highest port": ("https://h:65535/a", "https://h:65535/a", "https://h:65535/a"),
    "the longest host": (f"https://{'h.' * 126}h/a", f"https://{'h.' * 126}h/a", f"https://{'h.' * 126}h/a"),
    "one .git only": ("https://h/app.git.git", "https://h/app.git.git", "https://h/app.git"),
    "IPv4": ("https://192.0.2.7/a", "https://192.0.2.7/a", "https://192.0.2.7/a"),
    "IPv6": ("https://[2001:DB8:0::1]:443/a", "https://[2001:db8::1]/a", "https://[2001:db8::1]/a"),
    "IPv6 with port": ("https://[::1]:99/a", "https://[::1]:99/a", "https://[::1]:99/a"),
}


@pytest.mark.parametrize(("text", "url", "normalised"), SPELLINGS.values(), ids=SPELLINGS.keys())
def test_each_place_has_one_normalised_form(text: str, url: str, normalised: str) -> None:
    repository = parse_repository(text)
    assert repository.url == url
    assert repository.normalised == normalised
    assert parse_repository(repository.url) == repository


TRANSPORTS = {
    "ext": "ext::sh -c 'touch /tmp/x'",
    "ext, other case": "ExT::sh%20-c",
    "fd": "fd::17",
    "helper of a scheme": "https::https://h/a",
    "file helper": "file::/srv/app",
    "http": "http://h/a",
    "HTTP": "HTTP://h/a",
    "git": "git://h/a",
    "ftp": "ftp://h/a",
    "git+ssh": "git+ssh://h/a",
    "absolute path": "/srv/app",
    "relative path": "../app",
    "dot": ".",
    "bare name": "app",
    "drive": "C:/app",
    "scp without user": "host:app",
    "one slash": "https:/h/a",
    "home": "~/app",
}


@pytest.mark.attack(50)
@pytest.mark.parametrize("text", TRANSPORTS.values(), ids=TRANSPORTS.keys())
def test_other_transports_are_not_allowed(text: str) -> None:
    with pytest.raises(CommandRefused) as refused:
        parse_repository(text)
    assert refused.value.code == "not_allowed"


INVALID = {
    "option": "--upload-pack=touch",
    "option of ssh": "-oProxyCommand=touch@h:a",
    "option as user": "ssh://-oProxyCommand=x@h/a",
    "option as host": "ssh://-oProxyCommand=x/a",
    "option as host behind a user": "ssh://git@-oProxyCommand=x/a",
    "option as scp host": "git@-oProxyCommand=x:a",
    "option as scp path": "git@h:--upload-pack=touch",
    "password": "https://bot:s3cret@h/a",
    "empty password": "https://bot:@h/a",
    "password in scp form": "https://bot:s3cret@h:8443/a",
    "empty user": "https://@h/a",
    "two users": "https://a@b@h/a",
    "encoded user": "https://a%40b@h/a",
    "empty": "",
    "NUL": "https://h/a\0b",
    "newline at the end": "https://h/a\n",
    "space": "https://h/a b",
    "escape": "https://h/\x1b[2J",
    "non-ASCII": "https://h/\u202eapp",
    "homoglyph host": "https://gi\u0442.example.org/a",
    "too long": "https://h/" + "a" * MAX_REPOSITORY,
    "no host": "https:///a",
    "host with a trailing dot": "https://h./a",
    "host with an empty label": "https://a..b/a",
    "host too long": "https://" + "a." * 130 + "b/a",
    "label too long": "https://" + "a" * 64 + "/a",
    "host with %": "https://h%2eexample/a",
    "IPv4 as a number": "https://2130706433/a",
    "IPv4 in hex": "https://0x7f.0.0.0x1/a",
    "IPv4 in octal": "https://127.0.0.01/a",
    "IPv4 cut short": "https://127.1/a",
    "IPv6, broken": "https://[::g]/a",
    "IPv6 with a zone": "https://[fe80::1%25eth0]/a",
    "bracket": "https://[::1/a",
    "empty port": "https://h:/a",
    "port 0": "https://h:0/a",
    "port too large": "https://h:65536/a",
    "port with zero in front": "https://h:0443/a",
    "port of letters": "https://h:ssh/a",
    "file with a host": "file://localhost/srv/app",
    "no path": "https://h",
    "only a slash": "https://h/",
    "dot segment": "https://h/team/./app",
    "parent segment": "https://h/team/../other/app",
    "encoded parent segment": "https://h/team/%2e%2E/other",
    "parent of scp": "git@h:team/../other",
    "empty segment": "https://h//team/app",
    "two slashes of scp": "git@h://team",
    "encoded slash": "https://h/team%2fapp",
    "encoded percent": "https://h/%252e%252e/a",
    "encoded backslash": "https://h/a%5Cb",
    "encoded newline": "https://h/a%0Ab",
    "encoded bidi": "https://h/a%E2%80%AEb",
    "encoded nonsense": "https://h/%FFa",
    "broken escape": "https://h/a%2",
    "backslash": "https://h/a\\b",
    "query": "https://h/a?b",
    "fragment": "https://h/a#b",
    "percent in scp form": "git@h:te%61m",
    "inside of a repository": "file:///srv/app/.git",
    "inside of a repository, other case": "file:///srv/app/.GIT/",
}


@pytest.mark.attack(51)
@pytest.mark.parametrize("text", INVALID.values(), ids=INVALID.keys())
def test_what_git_could_misread_is_invalid(text: str) -> None:
    with pytest.raises(CommandRefused) as refused:
        parse_repository(text)
    assert refused.value.code == "invalid"
    assert "s3cret" not in refused.value.message
    assert refused.value.message.isprintable()


POLICY = ("https://git.example.org/team/**",)

OUTSIDE = {
    "other group": "https://git.example.org/other/app",
    "prefix of the group": "https://git.example.org/team2/app",
    "the group itself": "https://git.example.org/team",
    "group in other case": "https://git.example.org/Team/app",
    "other port": "https://git.example.org:8443/team/app",
    "user in front": "https://git.example.org@evil.example/team/app",
    "user": "https://bot@git.example.org/team/app",
    "other scheme": "ssh://git.example.org/team/app",
    "file": "file:///git.example.org/team/app",
    "host in front": "https://evil.git.example.org/team/app",
    "host behind": "https://git.example.org.evil/team/app",
}


@pytest.mark.attack(39)
@pytest.mark.parametrize("text", OUTSIDE.values(), ids=OUTSIDE.keys())
def test_what_lies_outside_a_glob_does_not_match(text: str) -> None:
    assert match_repository(POLICY, parse_repository(text)) is None


@pytest.mark.attack(39)
def test_an_empty_policy_covers_nothing() -> None:
    assert match_repository([], parse_repository("https://h/a")) is None


COVERED = {
    "any depth": ("https://h/team/**", "https://h/team/sub/sub/app"),
    "any depth, one": ("https://h/team/**", "https://h/team/app.git"),
    "whole host": ("https://h/**", "https://h/app"),
    "between, none": ("https://h/**/app", "https://h/app"),
    "between, many": ("https://h/**/app", "https://h/a/b/app"),
    "two in a row": ("https://h/**/**", "https://h/a"),
    "one segment": ("https://h/*/app", "https://h/team/app"),
    "part of a segment": ("https://h/team/app-*", "https://h/team/app-1"),
    "double star in a segment": ("https://h/team/app**", "https://h/team/app-1"),
    ".git of the glob": ("https://h/team/app.git", "https://h/team/app"),
    ".git of the repository": ("https://h/team/app/", "https://h/team/app.git/"),
    "host in other case": ("HTTPS://H/team/*", "https://h/team/app"),
    "default port of the glob": ("https://h:443/team/*", "https://h/team/app"),
    "part of a host": ("https://*.example.org/**", "https://git.example.org/a"),
    "encoded in the glob": ("https://h/te%61m/*", "https://h/team/app"),
    "scp as ssh": ("ssh://git@h/team/*", "git@h:team/app"),
    "ssh as scp": ("git@h:team/**", "ssh://git@h/team/app"),
    "absolute scp glob": ("git@h:/team/**", "ssh://git@h/team/app"),
    "any user": ("ssh://*@h/**", "git@h:a"),
    "files": ("file:///srv/git/**", "file:///srv/git/team/app.git"),
    "all files": ("file://**", "file:///srv/app"),
    "all files, longer": ("file:///**", "file:///srv/app"),
    "a user in upper case": ("ssh://Git@h/**", "ssh://Git@h/a"),
    "whole scheme": ("https://**", "https://u@h:1/a"),
    "everything": ("**", "file:///srv/app"),
}


@pytest.mark.parametrize(("glob", "text"), COVERED.values(), ids=COVERED.keys())
def test_a_glob_covers(glob: str, text: str) -> None:
    assert match_repository(["https://first.example/**", glob], parse_repository(text)) == glob
    assert check_glob(glob) == glob


NOT_COVERED = {
    "star crosses no slash": ("https://h/*", "https://h/team/app"),
    "part of a host takes no user": ("https://*.example.org/**", "https://evil@git.example.org/a"),
    "part of a host takes no port": ("https://h*/**", "https://h:81/a"),
    "part of a host takes no slash": ("https://*.example.org/**", "https://evil.com/x.example.org/a"),
    "any user is a user": ("ssh://*@h/**", "ssh://h/a"),
    "a user of another case": ("ssh://Git@h/**", "ssh://git@h/a"),
    "dot is a dot": ("https://h/a.b", "https://h/axb"),
    "whole scheme, other": ("https://**", "ssh://h/a"),
    "star in a row": ("https://h/a**/**/b", "https://h/c/b"),
}


@pytest.mark.attack(39)
@pytest.mark.parametrize(("glob", "text"), NOT_COVERED.values(), ids=NOT_COVERED.keys())
def test_a_glob_does_not_cover(glob: str, text: str) -> None:
    assert match_repository([glob], parse_repository(text)) is None


@pytest.mark.timeout(20)
def test_many_stars_in_a_row_cost_no_more_than_one() -> None:
    repository = parse_repository(f"https://h/{'a/' * 500}b")
    assert match_repository([f"https://h/{'**/' * 300}c"], repository) is None
    assert match_repository([f"https://h/{'**/' * 300}b"], repository)


def test_a_password_is_called_one_and_not_repeated() -> None:
    with pytest.raises(Invalid, match="must not carry a password") as refused:
        parse_repository("https://me:hunter2@h/a")
    assert "hunter2" not in str(refused.value)


UNREADABLE_GLOBS = ["", "*", "team/**", "https://h", "https://**.org/a", "https://h/../a", "https://h/a b"]


@pytest.mark.parametrize("glob", UNREADABLE_GLOBS)
def test_a_glob_that_cannot_be_read_covers_nothing_and_is_named(glob: str) -> None:
    assert match_repository([glob], parse_repository("https://h/a")) is None
    with pytest.raises(Invalid):
        check_glob(glob)


@given(st.text(max_size=60) | st.from_regex(r"[A-Za-z+:]{0,8}[/:@]{0,3}[a-z0-9@:.%/~\\-]{0,40}", fullmatch=True))
def test_any_text_is_parsed_to_a_fixed_point_or_refused(text: str) -> None:
    try:
        repository = parse_repository(text)
    except (Invalid, NotAllowed):
        return
    assert parse_repository(repository.url) == repository
    assert not {"..", ".", ""} & set(repository.path.split("/"))
