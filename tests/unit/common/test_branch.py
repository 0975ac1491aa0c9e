from __future__ import annotations

import contextlib
import subprocess

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from common.branch import MAX_BRANCH_BYTES, check_branch, check_branch_glob, match_branch
from common.errors import Invalid

GOOD = [
    "main",
    "feature/login",
    "a",
    "v1.2.x",
    "a@b",
    "x/@",
    "ümlaut",
    "heads/main",
    "refs/heads/x",
    "a" * MAX_BRANCH_BYTES,
]


@pytest.mark.parametrize("name", GOOD)
def test_a_branch_name_passes_unchanged(name: str) -> None:
    assert check_branch(name) == name


BAD = {
    "option": "-h",
    "long option": "--upload-pack=x",
    "previous": "@{-1}",
    "upstream": "main@{u}",
    "at": "@",
    "HEAD": "HEAD",
    "range": "a..b",
    "parent": "..",
    "empty": "",
    "space": "a b",
    "newline": "main\n",
    "NUL": "a\0",
    "DEL": "a\x7f",
    "tilde": "a~1",
    "caret": "a^",
    "colon": "a:b",
    "question mark": "a?",
    "star": "a*",
    "bracket": "a[",
    "backslash": "a\\b",
    "slash in front": "/a",
    "slash at the end": "a/",
    "empty part": "a//b",
    "dot in front": ".a",
    "dot in front of a part": "a/.b",
    "lock": "a.lock",
    "lock in between": "a.lock/b",
    "dot at the end": "a.",
    "too long": "a" * (MAX_BRANCH_BYTES + 1),
    "surrogate": "\ud800",
}


@pytest.mark.attack(51)
@pytest.mark.parametrize("name", BAD.values(), ids=BAD.keys())
def test_what_git_could_misread_is_invalid(name: str) -> None:
    with pytest.raises(Invalid):
        check_branch(name)


PIECES = st.sampled_from(
    [
        "a",
        "B",
        "0",
        "-",
        ".",
        "..",
        "/",
        "//",
        "@",
        "@{",
        "{",
        "}",
        "-1",
        ".lock",
        "lock",
        "HEAD",
        "~",
        "^",
        ":",
        "?",
        "*",
        "[",
        "]",
        "\\",
        "\xe9",
        "\u202e",
        "refs/heads/",
        "main",
        " ",
        "\t",
        "\x7f",
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, max_size=6).map("".join) | st.text(st.characters(exclude_categories=["Cs"]), max_size=8))
def test_the_answer_is_that_of_git(name: str) -> None:
    assume("\0" not in name)  # cannot be an argument at all
    assume(name != "@")  # git says yes, and reads it as HEAD in other commands
    git = subprocess.run(["git", "check-ref-format", "--branch", name], cwd="/", capture_output=True, check=False)
    expected = contextlib.nullcontext() if git.returncode == 0 else pytest.raises(Invalid)
    with expected:
        check_branch(name)


COVERED: dict[str, tuple[str, str, bool]] = {
    "itself": ("main", "main", True),
    "no prefix of it": ("main", "maintenance", False),
    "no case folding": ("main", "Main", False),
    "a star is a part of a part": ("feature-*", "feature-1", True),
    "a star may be empty": ("v*", "v", True),
    "a star crosses no slash": ("feature/*", "feature/a/b", False),
    "a star needs its slash": ("feature/*", "feature", False),
    "two stars are any parts": ("feature/**", "feature/a/b", True),
    "two stars at the end are at least one part": ("feature/**", "feature", False),
    "two stars alone are everything": ("**", "release/1.0", True),
    "two stars in front may be none": ("**/hotfix", "hotfix", True),
    "two stars in front": ("**/hotfix", "team/a/hotfix", True),
    "two stars in front end a part": ("**/hotfix", "nohotfix", False),
    "two stars in the middle": ("a/**/b", "a/x/y/b", True),
    "two stars in the middle may be none": ("a/**/b", "a/b", True),
    "a dot is a dot": ("v1.0", "v1x0", False),
    "a newline ends nothing": ("main", "main\n", False),
}


@pytest.mark.attack(39)
@pytest.mark.parametrize(("glob", "name", "covered"), COVERED.values(), ids=COVERED)
def test_a_glob_covers_a_branch(glob: str, name: str, covered: bool) -> None:
    assert check_branch_glob(glob) == glob
    assert match_branch(["other", glob], name) == (glob if covered else None)


def test_no_glob_covers_nothing() -> None:
    assert match_branch([], "main") is None


@pytest.mark.parametrize("glob", ["", "-main", "a b", "a//b", "[ab]", "main?", "a/.b*", "@{-1}", "**.lock"])
def test_a_glob_that_no_branch_could_match_is_refused(glob: str) -> None:
    with pytest.raises(Invalid):
        check_branch_glob(glob)


def test_a_star_of_a_glob_stands_for_one_letter_at_least() -> None:
    glob = "a" * (MAX_BRANCH_BYTES - 1) + "*"
    assert check_branch_glob(glob) == glob
    with pytest.raises(Invalid):
        check_branch_glob("a" + glob)
