"""The pure parts of the page: words, troubles, forms, sessions, bounds, and the vendored files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, cast

import pytest

import hub.dashboard
from common.errors import RateLimited
from common.http import InvalidRequest
from common.ids import rfc3339
from hub.dashboard import words
from hub.dashboard.assets import Assets
from hub.dashboard.attempts import PER_ADDRESS, WINDOW_S, Attempts
from hub.dashboard.live import encode
from hub.dashboard.pages import Pages
from hub.dashboard.sessions import LIFE_S, Sessions
from hub.dashboard.spawning import read_spawn, split_items
from hub.dashboard.troubles import health, troubles

STATIC = Path(hub.dashboard.__file__).parent / "static"
NOW_MS = 1_795_000_000_000


class FakeClock:
    def __init__(self) -> None:
        self.ms = NOW_MS

    def now_ms(self) -> int:
        return self.ms

    def new_id(self) -> str:
        raise NotImplementedError


def peer(**members: Any) -> Any:
    return {
        "id": "build-1", "kind": "spoke", "state": "active", "url": "http://s", "link": None, "pending": 0,
        "failingSince": None, "lastError": None, "frozen": False, "freeze": None, "createdAt": rfc3339(NOW_MS),
        "lastContactAt": None, **members,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "now"), (0.4, "now"), (59, "59 s ago"), (61, "1 min ago"), (7300, "2 h ago"), (90_000, "1 d ago"),
     (-65, "in 1 min")],
)  # fmt: skip
def test_an_age_has_one_unit(seconds: float, said: str) -> None:
    assert words.age(seconds) == said


def test_a_moment_is_an_age_with_its_time_as_title() -> None:
    at = rfc3339(NOW_MS - 5000)
    assert words.moment(at, NOW_MS) == f'<time datetime="{at}" title="{at}">5 s ago</time>'
    assert "never" in words.moment(None, NOW_MS)


def test_text_of_others_keeps_its_lines_and_nothing_else() -> None:
    assert words.lines("a\r\n\tb<\x1b\u202e") == "a\n\tb&lt;\\x1b\\u202e"
    assert words.plain("a\nb") == "a\\nb"
    assert words.plain(7) == 7
    assert words.pretty({"<": 1}) == "{\n  &#34;&lt;&#34;: 1\n}"


@pytest.mark.parametrize(("count", "said"), [(5, "5 bytes"), (2048, "2 KiB"), (3 * 1024 * 1024, "3.0 MiB")])
def test_a_size_is_for_people(count: int, said: str) -> None:
    assert words.size(count) == said


def test_how_long_something_took() -> None:
    start = rfc3339(NOW_MS)
    assert words.duration(start, rfc3339(NOW_MS + 1500)) == "1.5 s"
    assert words.duration(start, rfc3339(NOW_MS + 61_000)) == "1 min 1 s"
    assert words.duration(start, None) == ""


REFUSED = {"asked": "freeze", "state": "refused", "at": rfc3339(NOW_MS), "reason": None, "lastError": {"detail": "no"}}


@pytest.mark.parametrize(
    ("members", "state", "said"),
    [
        ({}, "ok", None),
        ({"url": None, "link": {"since": "", "remote": ""}}, "ok", None),
        ({"url": None}, "bad", "is not connected, and only it can dial"),
        ({"state": "pending"}, "decide", "asks to join"),
        ({"state": "suspended", "pending": 2}, "note", "is suspended; waiting for it: 2"),
        ({"state": "revoked"}, "off", None),
        ({"failingSince": rfc3339(NOW_MS), "lastError": {"detail": "refused"}}, "bad", "does not answer"),
        ({"failingSince": rfc3339(NOW_MS)}, "bad", "does not answer"),
        ({"frozen": True}, "note", "is frozen"),
        ({"frozen": True, "freeze": {**REFUSED, "state": "delivered"}}, "note", "is frozen"),
        ({"freeze": REFUSED}, "bad", "refused to freeze"),
    ],
)
def test_what_is_wrong_with_a_spoke(members: dict[str, Any], state: str, said: str | None) -> None:
    view = peer(**members)
    assert health(view) == state
    found = troubles([view], None)
    assert [trouble.text.startswith(said or "") for trouble in found] == ([True] if said else [])


def test_the_worst_stands_first() -> None:
    found = troubles([peer(state="suspended"), peer(state="pending"), peer(url=None)], "the audit cannot be written")
    assert [trouble.weight for trouble in found] == ["bad", "bad", "decide", "note"]
    assert found[0].why == "the audit cannot be written"


def test_an_empty_line_begins_the_next_item() -> None:
    assert split_items("a\nb\n\n \nc\n \t\n\n") == ["a\nb", "c"]


def test_a_form_is_read_in_its_own_words() -> None:
    fields = {
        "agentId": "0199aaaa-0000-7000-8000-000000000000", "spoke": "build-1", "taskId": "T", "agentType": "worker",
        "repository": "https://x/y.git", "branch": "main", "workItems": "a", "skills": "", "priority": "",
    }  # fmt: skip
    assert read_spawn(fields).priority == 5
    with pytest.raises(InvalidRequest):
        read_spawn({**fields, "priority": "99"})


def test_a_session_ends_and_the_oldest_gives_way() -> None:
    clock = FakeClock()
    sessions = Sessions(clock)
    first = sessions.open("token")
    found = sessions.find(first)
    assert found is not None
    assert found.token == "token"
    assert found.is_own(found.csrf)
    assert not found.is_own("\udcff")
    assert "token'" not in repr(found)
    clock.ms += LIFE_S * 1000
    assert sessions.find(first) is None
    cookies = [sessions.open("token") for _ in range(1001)]
    assert sessions.find(cookies[0]) is None
    assert sessions.find(cookies[1]) is not None


@pytest.mark.attack(58)
def test_logins_are_few_from_one_address_and_from_all() -> None:
    clock = FakeClock()
    attempts = Attempts(clock)
    for _ in range(PER_ADDRESS):
        attempts.check("a")
        attempts.failed("a")
    with pytest.raises(RateLimited) as refusal:
        attempts.check("a")
    assert 0 < refusal.value.retry_after_s <= WINDOW_S
    attempts.check("b")
    for number in range(200):
        attempts.failed(str(number))
    with pytest.raises(RateLimited):
        attempts.check("b")
    clock.ms += WINDOW_S * 1000
    attempts.check("a")


def test_a_message_holds_every_line_end_that_a_browser_knows() -> None:
    assert encode("a\rb\r\nc\n") == b"data: a\ndata: b\ndata: c\ndata: \n\n"


def test_vendored_files_are_what_their_source_says() -> None:
    sources = json.loads((STATIC / "sources.json").read_text())
    for name, source in sources.items():
        assert hashlib.sha256((STATIC / name).read_bytes()).hexdigest() == source["sha256"], name
        assert source["package"]
        assert source["license"]
    ours = {"page.css", "page.js", "icon.svg", "sources.json"}
    assert {path.name for path in STATIC.iterdir()} == set(sources) | ours


def test_where_none_of_those_looked_at_is_like_that_the_page_goes_on_looking() -> None:
    pages = Pages("hub-eu", FakeClock(), Assets())
    text = pages.part(
        cast("Any", None), "_agents.html", agents=[], older="status=failed&cursor=x", same="status=failed"
    )
    assert "No agent is like that" not in text
    assert '<a href="/agents?status=failed&amp;cursor=x" rel="next">' in text
