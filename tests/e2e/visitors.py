"""Headless Chromium, and the visitors of the shop who use it."""

import asyncio
import contextlib
import json
import os
from urllib.parse import urlsplit

from backends import Loop
from harness import Skipped
from playwright.async_api import Error, async_playwright

# The longest that the browser may take for one thing, in milliseconds; it ends a hang and decides nothing else.
PATIENCE = 30_000
# Chromium's own setting "block all cookies".
NO_COOKIES = {"profile": {"default_content_setting_values": {"cookies": 2}}}
PAGE = """() => ({
    script: document.body.dataset.edition,
    style: getComputedStyle(document.documentElement).getPropertyValue("--page-edition").trim(),
    text: document.querySelector("#title").textContent.at(-1),
    picture: document.querySelector("#logo").naturalWidth > 0,
})"""
# Without Playwright's own click and waiting, which put a large script into each page.
CLICK = """() => new Promise((done) => {
    const cart = document.querySelector("#cart");
    new MutationObserver(() => cart.dataset.state && done()).observe(cart, { attributes: true });
    document.querySelector("#open").click();
    if (cart.dataset.state) done();
})"""
CART = """() => ({
    state: document.querySelector("#cart").dataset.state,
    script: document.querySelector("#cart").dataset.edition,
    style: getComputedStyle(document.documentElement).getPropertyValue("--cart-edition").trim(),
    text: document.querySelector("#cart p")?.textContent.match(/Edition (.)/)[1],
    picture: document.querySelector("#cart img")?.naturalWidth > 0,
})"""


class Browsers:
    """Two Chromium processes: one as it comes, and one whose owner has told it to refuse all cookies."""

    def __init__(self, world):
        if "CHROMIUM" not in os.environ:
            raise Skipped("E2E_BROWSER=skip")
        self.loop = Loop()
        world.closing.callback(self.loop.close)
        self.folder = world.folder / "chromium"
        (self.folder / "Default").mkdir(parents=True, exist_ok=True)
        (self.folder / "Default" / "Preferences").write_text(json.dumps(NO_COOKIES))
        world.closing.callback(self.stop)
        self.loop.run(self.start(), 100)

    async def start(self):
        self.playwright = await async_playwright().start()
        options = {"executable_path": os.environ["CHROMIUM"], "timeout": 90_000,
                   "args": ["--no-sandbox"] if os.geteuid() == 0 else []}
        chromium = self.playwright.chromium
        self.usual, self.refusing = await asyncio.gather(
            chromium.launch(**options), chromium.launch_persistent_context(self.folder, **options))

    def stop(self):
        """End both; what does not end in time, or never began, ends with this process, whose pipe it reads."""
        with contextlib.suppress(Exception):
            self.loop.run(self.close())

    async def close(self):
        await asyncio.gather(self.usual.close(), self.refusing.close())
        await self.playwright.stop()

    async def context(self, cookies):
        """A new visitor's: without cookies and with an empty cache."""
        return await (self.usual if cookies else self.refusing.browser).new_context()


class Visitor:
    """One visitor with one tab. What fails is added to `failures`, which all visitors of a site share."""

    def __init__(self, browsers, name, url, failures, cookies=True):
        self.browsers, self.name, self.url, self.failures, self.cookies = browsers, name, url, failures, cookies
        # How many hashed files were loaded, from the network or from the cache.
        self.assets = 0
        # The edition of each page view.
        self.editions = []
        # The names of the cookies that the browser had in the end.
        self.kept = None
        self.context = self.page = None

    def fail(self, what):
        self.failures.append(f"{self.name}, edition {(self.editions or '?')[-1]}: {what}")

    def answered(self, response):
        path = urlsplit(response.url).path
        asset = path.startswith("/assets/")
        self.assets += asset
        trap = asset and response.headers.get("content-type", "").startswith("text/html")
        if response.status >= 400 or trap:
            self.fail(f"{path} was answered {response.status} {response.headers.get('content-type')}")

    async def open(self):
        """Load the page in a new tab."""
        self.context = await self.browsers.context(self.cookies)
        self.context.set_default_timeout(PATIENCE)
        self.page = page = await self.context.new_page()
        page.on("response", self.answered)
        page.on("requestfailed", lambda request: self.fail(f"{request.url}: {request.failure}"))
        page.on("pageerror", lambda error: self.fail(f"error: {error}"))
        page.on("console", lambda message: message.type == "error" and self.fail(f"console: {message.text}"))
        await self.view(page.goto(self.url))

    async def reload(self):
        """Load the page again."""
        await self.view(self.page.reload())

    async def view(self, loading):
        """One page view: script, style, text and picture must be there, and of one edition."""
        try:
            await loading
            seen = await self.page.evaluate(PAGE)
        except Error as error:
            seen = {"error": error.message.splitlines()[0]}
        self.editions.append(seen.get("script") or "?")
        self.must_be_whole("the page", seen)

    async def click(self):
        """Open the cart: its script, style, text and picture must be there, and of the page's edition."""
        if self.editions[-1] == "?":
            return self.fail("the page is not alive: there is nothing to click")
        try:
            await asyncio.wait_for(self.page.evaluate(CLICK), PATIENCE / 1000)
            seen = await self.page.evaluate(CART)
        except Error as error:
            seen = {"error": error.message.splitlines()[0]}
        except TimeoutError:
            seen = {"error": "nothing happens after the click"}
        return self.must_be_whole("the cart", seen)

    def must_be_whole(self, what, seen):
        edition = self.editions[-1]
        whole = {"script": edition, "style": edition, "text": edition, "picture": True}
        if edition == "?" or whole | {"state": "open"} != {"state": "open"} | seen:
            self.fail(f"{what} is not whole: {seen}")

    async def leave(self):
        self.kept = [cookie["name"] for cookie in await self.context.cookies()]
        await self.context.close()


def together(browsers, *actions):
    """Let several visitors do something, a few at a time."""
    few = asyncio.Semaphore(4)

    async def one(action):
        async with few:
            await action

    async def all_of_them():
        await asyncio.gather(*map(one, actions))

    browsers.loop.run(all_of_them(), 100)
