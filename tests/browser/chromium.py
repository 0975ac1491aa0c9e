"""Debian's Chromium, driven by Playwright: a tab that remembers what must not have happened in it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from playwright.async_api import Browser, Page, async_playwright

EXECUTABLE: Final = "/usr/bin/chromium"
FLAGS: Final = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
AXE: Final = Path(__file__).parents[2] / "build" / "browser" / "node_modules" / "axe-core" / "axe.min.js"
_DEADLINE_MS: Final = 20_000
_FIND_VIOLATIONS: Final = """
async () => (await axe.run(document, {resultTypes: ["violations"]})).violations.map(
  found => `${found.id}: ${found.help}: ${found.nodes.map(node => node.html).join(" | ")}`)
"""


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Yield a running browser."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=EXECUTABLE, args=FLAGS)
        try:
            yield browser
        finally:
            await browser.close()


class Tab:
    """One tab on the page of the hub at `url`; `wrong` is what it complained of, and whom else it called."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.wrong: list[str] = []
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.wrong.append(f"script: {error}"))
        page.on("dialog", lambda dialog: self.wrong.append(f"dialog: {dialog.message}"))
        page.on("request", lambda request: self._see(request.url))

    def _hear(self, message: Any) -> None:
        if message.type == "error":
            self.wrong.append(f"console: {message.text}")

    def _see(self, url: str) -> None:
        if not url.startswith((self.url, "data:")):
            self.wrong.append(f"request: {url}")

    async def open(self, path: str) -> None:
        """Go to a page."""
        await self.page.goto(self.url + path)

    async def log_in(self, token: str) -> None:
        """Log in by the form."""
        await self.open("/login")
        await self.page.get_by_label("Token of this hub").fill(token)
        await self.page.get_by_role("button", name="Log in").click()
        await self.page.wait_for_url(self.url + "/")

    async def reads(self, text: str, within: str = "main") -> None:
        """Wait until the text can be seen."""
        await self.page.locator(within).get_by_text(text).first.wait_for(timeout=_DEADLINE_MS)

    async def violations(self) -> list[str]:
        """Return what axe-core finds wrong with what is shown now."""
        # By the protocol, not as a script of the page, whose policy would refuse it.
        await self.page.evaluate(AXE.read_text())
        found: list[str] = await self.page.evaluate(_FIND_VIOLATIONS)
        return found

    async def overflow(self) -> int:
        """Return by how many pixels the page is wider than the window."""
        pixels: int = await self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        return pixels


@asynccontextmanager
async def tab(browser: Browser, url: str, *, width: int = 1280, **options: Any) -> AsyncIterator[Tab]:
    """Yield a tab of a context of its own."""
    context = await browser.new_context(viewport={"width": width, "height": 900}, **options)
    context.set_default_timeout(_DEADLINE_MS)
    try:
        yield Tab(await context.new_page(), url)
    finally:
        await context.close()
