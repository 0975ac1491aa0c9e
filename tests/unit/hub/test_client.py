from __future__ import annotations

from typing import Any

import pytest

from hub.answers import shown
from hub.cli.following import AgentEnded, check_completed

SHOWN = [
    ("pending", "pending", "pending"),
    ("pending", "refused", "refused"),
    ("pending", "expired", "expired"),
    ("pending", "delivered", "pending"),
    ("running", "delivered", "running"),
    ("running", "expired", "running"),
    ("failed", "delivered", "failed"),
]


@pytest.mark.parametrize(("status", "delivery", "expected"), SHOWN)
def test_what_is_shown_of_an_agent(status: str, delivery: str, expected: str) -> None:
    agent: Any = {"status": status, "delivery": {"state": delivery}}
    assert shown(agent) == expected


def test_only_completed_is_success() -> None:
    agent: Any = {
        "agentId": "a",
        "status": "completed",
        "reason": None,
        "delivery": {"state": "delivered", "lastError": None},
    }
    check_completed(agent)
    with pytest.raises(AgentEnded, match="agent a: oom") as ended:
        check_completed(agent | {"status": "failed", "reason": "oom"})
    assert ended.value.code == "failed"
    refused = {"state": "refused", "lastError": {"code": "not_allowed", "detail": "repositories"}}
    with pytest.raises(AgentEnded, match="not_allowed: repositories") as ended:
        check_completed(agent | {"status": "pending", "delivery": refused})
    assert ended.value.code == "refused"
