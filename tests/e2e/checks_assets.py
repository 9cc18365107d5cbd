"""A Vite application is rolled out, and back, before real browsers: every hashed file loads, and no page mixes editions."""

import contextlib
import http.client
from collections import Counter

from backends import Loop
from harness import Program, expect, expect_equal, free_ports, long_check
from shop_server import EDITIONS, ShopServer
from visitors import Browsers, Visitor, together

IDS = {"a": "5b0c8e0e-6d5c-4f0f-9f57-1c9f0e7f3a10", "b": "e2a4b7d1-93c8-4e0b-8b8e-7d6f2c1a5b20"}
COOKIE = "version-key"
# The share of edition b, in per cent, at each stage; None: rolled back, and b is out of the deployment.
ROLLOUT = (0, 10, 50, 100, None)
# How often a new visitor looks again at once.
AGAIN = 3
# So many new visitors at 50 % see both editions but for one time in 10^12.
MANY = 40


class Site:
    """The proxy before both editions of the shop. `protected`: with the cookie and the assets configured."""

    def __init__(self, world, name, protected, answers_all):
        if not hasattr(world, "browsers"):
            world.browsers = Browsers(world)
        self.world, self.protected, self.browsers = world, protected, world.browsers
        loop = Loop()
        world.closing.callback(loop.close)
        self.servers = {edition: ShopServer(loop, edition, answers_all) for edition in EDITIONS}
        self.port, self.admin = free_ports(2)
        self.failures = []
        self.program = Program(world, name, self.text(ROLLOUT[0]))

    def text(self, share):
        """The file at a stage. Who is out of the deployment is retained."""
        versions = "".join(
            f'[[worker.version]]\nid = "{IDS[edition]}"\ntag = "{edition}"\nupstreams = ["http://127.0.0.1:{server.port}"]\n'
            for edition, server in self.servers.items())
        shares = {None: {"a": 100}, 100: {"b": 100}}.get(share) or {"b": share, "a": 100 - share}
        retained = ", ".join(f'"{IDS[edition]}"' for edition in EDITIONS if edition not in shares)
        protection = f"""
[worker.affinity]
cookie = "{COOKIE}"
[worker.assets]
paths = ["/assets/*"]
fallback = true
retain = [{retained}]
"""
        deployment = "".join(f'  {{ version_id = "{IDS[edition]}", percentage = {each} }},\n'
                             for edition, each in shares.items())
        return f"""
[server]
threads = 2
[[listener]]
address = "127.0.0.1:{self.port}"
[admin]
address = "127.0.0.1:{self.admin}"
[[worker]]
name = "shop"
expose_version = true
{protection if self.protected else ""}
{versions}
[worker.deployment]
versions = [
{deployment}]
"""

    def move_to(self, share):
        if self.text(share) != self.program.file.read_text():
            self.program.reload(self.text(share))

    def visitor(self, name, cookies=True):
        return Visitor(self.browsers, name, f"http://127.0.0.1:{self.port}/", self.failures, cookies)

    def ask(self, path):
        """A request without a browser and without a cookie: status, headers and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.headers, response.read()

    def together(self, *actions):
        together(self.browsers, *actions)

    def end(self):
        expect_equal(self.world.processes.end(self.program.process), 0, "exit code")


class Crowd:
    """The visitors of a site during a rollout."""

    def __init__(self, site, stages):
        self.site, self.stages = site, stages
        # Tabs by the stage in which their visitor will click; each was opened at some stage before.
        self.waiting = {share: [] for share in stages}
        # Visitors with cookies who come back at every stage, by the stage in which they were new.
        self.regulars = {share: [] for share in stages}
        self.everybody = []

    def arrive(self, name, cookies=True):
        visitor = self.site.visitor(f"a visitor who {'keeps' if cookies else 'refuses'} cookies, {name}", cookies)
        self.everybody.append(visitor)
        return visitor

    def play(self):
        for number, share in enumerate(self.stages):
            self.site.move_to(share)
            later = self.stages[number + 1:]
            self.site.together(
                *[finish(visitor) for visitor in self.waiting[share]],
                *[come_back(visitor) for visitors in self.regulars.values() for visitor in visitors],
                *[self.leave_open(share, stage) for stage in later if share != 10],
                *[self.leave_open(share, stage, cookies=False) for stage in later if share == 0],
                *[self.come_for_good(share) for _ in range(2 if share in (0, 50) else 1)],
                *[look_once(self.arrive(f"there once, at {say(share)}", cookies=False)) for _ in range(2)])
            for _ in range(MANY if share == 50 else 0):
                if {visitor.editions[0] for visitor in self.regulars[share]} >= set(EDITIONS):
                    break
                self.site.together(self.come_for_good(share))
        self.site.together(*[visitor.leave() for visitors in self.regulars.values() for visitor in visitors])

    async def leave_open(self, share, stage, cookies=True):
        """A tab that is opened now; its click comes at a later stage."""
        visitor = self.arrive(f"opened at {say(share)}, clicks at {say(stage)}", cookies)
        await visitor.open()
        self.waiting[stage].append(visitor)

    async def come_for_good(self, share):
        """A new visitor, who comes back at every later stage."""
        visitor = self.arrive(f"there since {say(share)}")
        self.regulars[share].append(visitor)
        await visitor.open()
        await visitor.click()
        for _ in range(AGAIN):
            await visitor.reload()


def say(share):
    return "the rollback" if share is None else f"{share} %"


async def finish(visitor):
    """The click of a tab that was opened earlier."""
    await visitor.click()
    await visitor.leave()


async def come_back(visitor):
    await visitor.reload()
    await visitor.click()


async def look_once(visitor):
    await visitor.open()
    await visitor.click()
    await visitor.leave()


def listed(failures):
    return f"{len(failures)} failures:\n       " + "\n       ".join(failures[:20])


def a_version_with_0_per_cent_is_not_asked(site):
    """At 0 % what only edition b has is a miss, which no cache may keep; as soon as b has a share, it is found."""
    server = site.servers["b"]
    path = server.assets[0]
    for share in (0, 10, 0):
        site.move_to(share)
        asked = len(server.asked)
        status, headers, body = site.ask(path)
        if share:
            expect_equal((status, body), (200, server.files[path]), f"{path} at {say(share)}")
        else:
            seen = (status, headers["cache-control"], len(server.asked) - asked)
            expect_equal(seen, (200 if server.answers_all else 404, "no-store", 0), f"{path} at {say(share)}")


def nobody_went_back(crowd):
    """The first page view is final, and as the share grew every regular went from a to b at most once, all in the end."""
    for share, regulars in crowd.regulars.items():
        for visitor in regulars:
            views = visitor.editions
            expect_equal(views[1:1 + AGAIN], [views[0]] * AGAIN, f"{visitor.name}: what came after {views[0]}")
            rollout = views if share is None else views[:-1]
            expect_equal(rollout, sorted(rollout), visitor.name)
            expect(views[-1] == "a" and (share is None or rollout[-1] == "b"), f"{visitor.name}: {views}")
    firsts = Counter(visitor.editions[0] for visitor in crowd.regulars[50])
    expect_equal(set(firsts), set(EDITIONS), "editions of new visitors at 50 %")


def cookies_were_kept_or_refused(crowd):
    for visitor in crowd.everybody:
        expect_equal(visitor.kept, [COOKIE] if visitor.cookies else [], f"cookies of {visitor.name}")


def rollout_without_failures(world, name, answers_all):
    site = Site(world, name, protected=True, answers_all=answers_all)
    a_version_with_0_per_cent_is_not_asked(site)
    crowd = Crowd(site, ROLLOUT)
    crowd.play()
    expect(not site.failures, listed(site.failures))
    cookies_were_kept_or_refused(crowd)
    nobody_went_back(crowd)
    few = [visitor.name for visitor in crowd.everybody if visitor.assets < len(site.servers["a"].assets)]
    expect(not few, f"these did not load every file: {few}")
    return site


def failures_without_protection(world, name, answers_all):
    site = Site(world, name, protected=False, answers_all=answers_all)
    crowd = Crowd(site, ROLLOUT)
    crowd.play()
    # When these click, no version is deployed that has what they ask for.
    late = [visitor.name for opened, clicks in ((0, 100), (100, None)) for visitor in crowd.waiting[clicks]
            if f"opened at {say(opened)}" in visitor.name]
    expect_equal(len(late), 3)
    for who in [*late, "there since 50 %", "there once, at 50 %"]:
        expect(any(who in failure for failure in site.failures), f"nothing failed for {who}; {listed(site.failures)}")
    return site


@long_check
def a_vite_application_is_rolled_out_and_back_and_no_asset_fails(world):
    site = rollout_without_failures(world, "assets-404", answers_all=False)
    expect(site.program.metric("gradual_asset_misses_total", rescued="true") > 0, "no miss was counted as rescued")
    site.end()


@long_check
def no_asset_fails_where_servers_answer_unknown_paths_with_the_page(world):
    rollout_without_failures(world, "assets-200", answers_all=True).end()


@long_check
def with_assets_and_cookie_off_the_same_rollout_fails_assets(world):
    site = failures_without_protection(world, "bare-404", answers_all=False)
    expect(any("was answered 404" in failure for failure in site.failures), listed(site.failures))
    site.end()


@long_check
def with_assets_and_cookie_off_pages_are_answered_in_place_of_assets(world):
    site = failures_without_protection(world, "bare-200", answers_all=True)
    expect(any("was answered 200 text/html" in failure for failure in site.failures), listed(site.failures))
    site.end()
