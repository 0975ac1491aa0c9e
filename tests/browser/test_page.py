"""The page in a real Chromium, against a real hub and a real spoke."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from common.clock import SystemClock
from hub.tokens import TokenStore
from tests.browser.conftest import NewTab
from tests.integration.hub.hub_node import HubNode
from tests.integration.hub.standin_spoke import StandinSpoke
from tests.integration.link.pair import Pair
from tests.spoke_node import Go

pytestmark = [pytest.mark.browser, pytest.mark.slow]
NARROW, WIDE = 360, 1280
EVIL = "<script>window.hit=1</script><img src=x onerror=window.hit=1>"


@pytest.mark.parametrize("width", [NARROW, WIDE])
async def test_an_agent_from_the_form_to_its_end_without_a_reload(
    pair: Pair, new_tab: NewTab, go: Go, width: int
) -> None:
    async with new_tab(width=width) as tab:
        await tab.log_in(pair.hub.token)
        page = tab.page
        await page.get_by_role("link", name="Spawn").click()
        await page.get_by_label("Spoke").select_option(pair.spoke.id)
        await page.get_by_label("Task").fill(f"form/{width}")
        await page.get_by_label("Repository").fill(pair.repository.as_uri())
        await page.get_by_label("Work items").fill(f"print the first line\n\nwait {go}\n\nprint the last line")
        assert await tab.overflow() <= 0
        await page.get_by_role("button", name="Spawn").click()
        await tab.reads("Taken: it goes to build-1")
        await page.evaluate("window.isSame = true")
        await page.locator("h1 .state.running").wait_for()
        await tab.reads("the first line", "pre.log")
        assert await tab.overflow() <= 0
        go.now()
        await page.locator("h1 .state.completed").wait_for()
        await tab.reads("the last line", "pre.log")
        await tab.reads("— the end —", "pre.log")
        assert await page.evaluate("window.isSame")
        assert not await page.get_by_text("Kill…").is_visible()
        assert not await page.get_by_text("Send a message…").is_visible()
        await page.get_by_text("Resume…").click()
        await page.get_by_label("What it is to do").fill("and more")
        await page.get_by_role("button", name="Have it go on").click()
        await tab.reads("It goes on.")
        await tab.reads("attempt 2")


@pytest.mark.parametrize("width", [NARROW, WIDE])
async def test_an_agent_is_killed_and_its_receipt_is_shown(pair: Pair, new_tab: NewTab, go: Go, width: int) -> None:
    agent_id = await pair.spawn(f"wait {go}")
    await pair.until(agent_id, "running")
    async with new_tab(width=width) as tab:
        await tab.log_in(pair.hub.token)
        await tab.open(f"/agents/{agent_id}")
        await tab.page.get_by_text("Kill…").click()
        await tab.page.get_by_label("Reason").fill("superseded")
        await tab.page.get_by_role("button", name="Kill this agent").click()
        await tab.reads("The kill is on its way")
        await tab.page.locator("h1 .state.killed").wait_for()
        await tab.reads("0 processes survived")
        await tab.reads("killed_by_peer")


async def test_the_list_moves_by_itself_and_keeps_the_keyboards_place(pair: Pair, new_tab: NewTab, go: Go) -> None:
    first = await pair.spawn("exit 0", taskId="list/first")
    await pair.until(first, "completed")
    async with new_tab() as tab:
        await tab.log_in(pair.hub.token)
        await tab.open(f"/agents?spoke={pair.spoke.id}")
        link = tab.page.get_by_role("link", name="list/first")
        await link.focus()
        second = await pair.spawn(f"wait {go}", taskId="list/second")
        row = tab.page.locator(f"#a-{second}")
        await row.locator(".state.running").wait_for()
        go.now()
        await row.locator(".state.completed").wait_for()
        assert await link.evaluate("link => link === document.activeElement")
        # What is filtered out does not come.
        await tab.page.get_by_label("Task").fill("list/first")
        await tab.page.get_by_role("button", name="Filter").click()
        await tab.page.wait_for_url("**/agents?*taskId=list%2Ffirst*")
        await tab.reads("list/first")
        assert await tab.page.get_by_text("list/second").count() == 0


@pytest.mark.parametrize("width", [NARROW, WIDE])
async def test_a_spoke_that_asks_is_approved_with_its_fingerprint_in_sight(
    pair: Pair, new_tab: NewTab, width: int
) -> None:
    async with new_tab(width=width) as tab:
        await tab.log_in(pair.hub.token)
        asking = StandinSpoke(pair.hub)
        pair.hub.add_peer(asking.id, asking.key.public, None, "pending")
        await tab.page.get_by_role("link", name=asking.id).first.click()
        fingerprint = tab.page.locator(".fingerprint").get_by_text(asking.key.public.fingerprint)
        assert await fingerprint.is_visible()
        assert await tab.overflow() <= 0
        button = tab.page.get_by_role("button", name=f"Approve {asking.id}")
        await button.click()
        assert await button.is_visible(), "the browser asks for the box first"
        await tab.page.get_by_label("I have compared the fingerprint").check()
        await button.click()
        await tab.reads("is approved and may connect")
        await tab.page.get_by_text("Revoke…").click()
        await tab.page.get_by_role("button", name="Revoke for good").click()
        await tab.page.locator("h1 .state.off").wait_for()


@pytest.mark.attack(57)
async def test_nothing_that_others_write_becomes_markup(pair: Pair, new_tab: NewTab) -> None:
    result = json.dumps({"summary": EVIL, "data": {EVIL: 1}})
    agent_id = await pair.spawn(f"print {EVIL}", f"result {result}")
    await pair.until(agent_id, "completed", "failed")
    async with StandinSpoke(pair.hub) as spoke:
        other = await pair.hub.spawn(spoke.id, context={"workItems": [EVIL]})
        await pair.hub.until_delivery(other, "delivered")
        spoke.log = EVIL.encode()
        told = {
            "summary": EVIL, "data": {EVIL: EVIL}, "branch": EVIL, "logBytes": len(EVIL), "preservedRef": EVIL,
            "commits": [{"sha": EVIL, "subject": EVIL}], "diffStat": None, "usage": None,
        }  # fmt: skip
        await spoke.report(spoke.advance(other, "failed", reason="exit_nonzero", signal=EVIL, result=told))
        async with new_tab() as tab:
            await tab.log_in(pair.hub.token)
            for path in (f"/agents/{agent_id}", f"/agents/{other}", f"/agents/{other}/log", "/agents"):
                await tab.open(path)
                if path != "/agents":
                    await tab.reads(EVIL, "pre.log")
                found = "document.querySelectorAll('main script, img[src=x], [onerror]').length"
                assert await tab.page.evaluate(found) == 0
                assert await tab.page.evaluate("window.hit") is None
            await tab.open(f"/spawn?like={other}")
            assert await tab.page.get_by_label("Work items").input_value() == EVIL
    pair.hub.set_state(spoke.id, "revoked")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [NARROW, WIDE])
async def test_everybody_can_use_every_page(pair: Pair, new_tab: NewTab, width: int, scheme: str) -> None:
    ended = await pair.spawn("print something", "commit made-here", "result {}")
    await pair.until(ended, "completed", "failed")
    waiting = await pair.hub.spawn(pair.spoke.id, context={"repository": "https://git.example.org/no/such.git"})
    asking = StandinSpoke(pair.hub)
    pair.hub.add_peer(asking.id, asking.key.public, None, "pending")
    found: dict[str, list[str]] = {}
    async with new_tab(width=width, color_scheme=scheme) as tab:
        await tab.open("/login")
        found["/login"] = await tab.violations()
        await tab.log_in(pair.hub.token)
        for path in (
            "/", "/agents", "/agents?reason=attempts_exhausted", f"/agents/{ended}", f"/agents/{waiting}",
            f"/agents/{ended}/log", f"/agents/{ended}/changes",
            f"/spokes/{pair.spoke.id}", f"/spokes/{asking.id}", "/spawn", "/invite",
        ):  # fmt: skip
            await tab.open(path)
            await tab.page.evaluate("document.querySelectorAll('main details').forEach(one => one.open = true)")
            found[path] = await tab.violations()
            assert await tab.overflow() <= 0, path
    pair.hub.set_state(asking.id, "revoked")
    assert {path: wrong for path, wrong in found.items() if wrong} == {}


async def test_the_keyboard_comes_to_the_content_first(pair: Pair, new_tab: NewTab) -> None:
    async with new_tab() as tab:
        await tab.log_in(pair.hub.token)
        await tab.open("/agents")
        await tab.page.keyboard.press("Tab")
        skip = tab.page.get_by_role("link", name="Skip to the content")
        assert await skip.evaluate("link => link === document.activeElement")
        assert await skip.evaluate("link => link.getBoundingClientRect().left >= 0")
        await tab.page.keyboard.press("Enter")
        await tab.page.keyboard.press("Tab")
        assert await tab.page.get_by_label("Status").evaluate("field => field === document.activeElement")


async def test_without_scripts_the_main_things_work(pair: Pair, new_tab: NewTab, go: Go) -> None:
    async with new_tab(java_script_enabled=False) as tab:
        await tab.log_in(pair.hub.token)
        await tab.open(f"/spawn?spoke={pair.spoke.id}")
        await tab.page.get_by_label("Task").fill("plain")
        await tab.page.get_by_label("Repository").fill(pair.repository.as_uri())
        await tab.page.get_by_label("Work items").fill(f"print by hand\n\nwait {go}")
        await tab.page.get_by_role("button", name="Spawn").click()
        agent_id = tab.page.url.rpartition("/")[2]
        await pair.until(agent_id, "running")
        await tab.page.reload()
        await tab.page.get_by_role("link", name="Show the log").click()
        await tab.page.wait_for_url("**/log")
        await tab.page.go_back()
        await tab.page.get_by_text("Kill…").click()
        await tab.page.get_by_role("button", name="Kill this agent").click()
        await pair.until(agent_id, "killed")


async def test_who_may_only_look_is_offered_nothing_else(pair: Pair, new_tab: NewTab) -> None:
    store = TokenStore(pair.hub.place.trust_file, lambda _event, _fields: None)
    secret = store.create("looker", "read", SystemClock().now_ms() // 1000)
    try:
        async with new_tab() as tab:
            await tab.log_in(secret)
            assert await tab.page.get_by_role("link", name="Spawn").count() == 0
            await tab.open(f"/spokes/{pair.spoke.id}")
            assert await tab.page.get_by_text("Freeze…").count() == 0
            # A live page ends with its token: the browser goes to the login by itself.
            await tab.open("/agents")
            store.revoke("looker")
            await tab.page.wait_for_url(re.compile("/login"))
            tab.wrong = [line for line in tab.wrong if "401" not in line]
    finally:
        store.close()


async def test_a_hub_that_is_gone_is_said_and_it_goes_on_by_itself(tmp_path: Path, new_tab: NewTab) -> None:
    with HubNode(tmp_path) as hub:
        async with new_tab(hub.url) as tab:
            await tab.log_in(hub.token)
            await tab.reads("No spoke has joined yet")
            await hub.kill9()
            await tab.reads("The connection to the hub is lost")
            tab.wrong = [line for line in tab.wrong if "net::ERR" not in line and "network error" not in line]
