"""`[agents.TYPE.push]`: what is refused when it is read, and where a branch goes."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from common.errors import NotAllowed
from common.repository import parse_repository
from spoke.push import PushConfig

AGENT = "0199a0b1-0000-7000-8000-000000000001"
TEAM = ["https://git.example.org/team/**"]
APP = parse_repository("https://git.example.org/team/app.git")
OTHER = parse_repository("https://git.example.org/other/app.git")

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no patterns": ({"repositories": []}, "repositories"),
    "patterns left out": ({"repositories": None}, "repositories"),
    "a pattern that cannot be read": ({"repositories": ["git.example.org"]}, "glob"),
    "a branch for all agents": ({"branch": "main"}, "{agentId}"),
    "a branch that is none": ({"branch": "-{agentId}"}, "branch"),
    "a branch that git reads otherwise": ({"branch": "a..{agentId}"}, "branch"),
    "a remote without a pattern": ({"remote": "https://git.example.org/other/app.git"}, "no pattern"),
    "a password in the remote": ({"remote": "https://me:secret@git.example.org/team/app.git"}, "repository"),
    "a remote helper": ({"remote": "ext::sh -c true"}, "repository"),
    "a helper that a shell would read": ({"credential_helper": "/bin/helper; id"}, "credential_helper"),
    "a helper by name": ({"credential_helper": "store"}, "credential_helper"),
    "an unknown member": ({"force": True}, "force"),
}


@pytest.mark.parametrize(("members", "names"), REFUSED.values(), ids=list(REFUSED))
def test_refused_when_it_is_read(members: dict[str, Any], names: str) -> None:
    with pytest.raises(ValidationError) as refused:
        PushConfig.model_validate({"repositories": TEAM, **members})
    assert names in str(refused.value)
    assert "secret" not in str(refused.value)


def test_it_goes_to_the_agents_own_repository() -> None:
    target = PushConfig(repositories=TEAM).target(AGENT, APP)
    assert (target.repository, target.branch, target.credential_helper) == (APP, f"agents/{AGENT}", None)


def test_it_goes_to_the_remote_that_is_named() -> None:
    config = PushConfig(repositories=TEAM, remote=APP.url, branch="x/{agentId}/y", credential_helper="/usr/bin/helper")
    target = config.target(AGENT, OTHER)
    assert (target.repository, target.branch, target.credential_helper) == (APP, f"x/{AGENT}/y", "/usr/bin/helper")


def test_what_may_be_read_may_not_be_written_for_that() -> None:
    with pytest.raises(NotAllowed, match=r"push\.repositories"):
        PushConfig(repositories=TEAM).target(AGENT, OTHER)
