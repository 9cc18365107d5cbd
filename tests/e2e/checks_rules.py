"""The recipes of `examples/rules`, run as they are but for their ports: a key decides, and it is the one that is promised."""

import re
from pathlib import Path

from checks_split import KEY, position
from harness import Program, check, expect, expect_equal, free_ports

RECIPES = Path(__file__).resolve().parents[2] / "examples" / "rules"
VALUES = [f"value-{number}" for number in range(8)]


class Recipe:
    """A program that runs one of the files."""

    def __init__(self, world, name):
        self.world = world
        self.port, admin = free_ports(2)
        text = (RECIPES / f"{name}.toml").read_text()
        for port, other in {8080: self.port, 3001: world.v1.port, 3002: world.v2.port}.items():
            expect(f'127.0.0.1:{port}"' in text, f"{name}.toml does not name port {port}")
            text = text.replace(f'127.0.0.1:{port}"', f'127.0.0.1:{other}"')
        self.program = Program(world, f"recipe-{name}", f'{text}\n[admin]\naddress = "127.0.0.1:{admin}"\n')

    def ask(self, path, *headers):
        """The version that answers a request with these headers, why, and the whole answer."""
        words = [word for header in headers for word in ("-H", header)]
        answer = self.world.curl(f"http://127.0.0.1:{self.port}{path}", *words, port=self.port)
        expect_equal(answer.status, 200, answer.trace)
        said = answer.headers["gradual-version"]
        return re.search(r'tag="(v[12])"', said)[1], re.search(r"reason=(\w+)", said)[1], answer

    def goes_by(self, key, path, *headers):
        """The request goes where the published formula puts this key: v2 comes first, with 50 %."""
        version, reason, _ = self.ask(path, *headers)
        wanted = "v2" if position(key.encode(), b"my-worker") < 50_000 else "v1"
        expect_equal((version, reason), (wanted, "key"), f"{path} {headers}")
        return version

    def draws(self, path, *headers):
        """The request has no key."""
        expect_equal(self.ask(path, *headers)[1], "random", f"{path} {headers}")

    def end(self):
        expect_equal(self.world.processes.end(self.program.process), 0, "exit code")


def a_cookie_is_the_key(world, recipe, cookie):
    """Requests with this cookie go by its value, others draw; the application is sent the key, too."""
    site = Recipe(world, recipe)
    reached = {site.goes_by(value, "/echo", f"Cookie: theme=dark; {cookie}={value}") for value in VALUES}
    expect_equal(reached, {"v1", "v2"}, "the versions that the values reach")
    seen = site.ask("/echo", f"Cookie: {cookie}=17")[2].text
    expect(f'["{KEY.lower()}", "17"]' in seen.replace(KEY, KEY.lower()), seen)
    site.draws("/echo")
    site.draws("/echo", "Cookie: theme=dark")
    site.end()


@check
def the_recipe_user_cookie_keeps_each_user_on_one_version(world):
    a_cookie_is_the_key(world, "user_cookie", "user_id")


@check
def the_recipe_session_cookie_keeps_each_session_on_one_version(world):
    a_cookie_is_the_key(world, "session_cookie", "session_id")


@check
def the_recipe_long_lived_cookie_keeps_each_browser_on_one_version(world):
    a_cookie_is_the_key(world, "long_lived_cookie", "version-key")


@check
def the_recipe_client_ip_keeps_each_address_on_one_version(world):
    site = Recipe(world, "client_ip")
    site.goes_by("127.0.0.1", "/")
    reached = {site.goes_by(f"192.0.2.{number}", "/", f"X-Forwarded-For: 192.0.2.{number}") for number in range(8)}
    expect_equal(reached, {"v1", "v2"}, "the versions that the addresses reach")
    site.end()


@check
def the_recipe_path_regex_keeps_each_file_on_one_version(world):
    site = Recipe(world, "path_regex")
    reached = {site.goes_by(f"img/{value}.png", f"/asset/img/{value}.png") for value in VALUES}
    expect_equal(reached, {"v1", "v2"}, "the versions that the files reach")
    site.draws("/other/asset/img/logo.png")
    site.goes_by("mine", "/other", f"{KEY}: mine")
    site.end()


@check
def the_recipe_affinity_cookie_needs_nothing_of_the_application(world):
    site = Recipe(world, "affinity_cookie")
    for _ in range(6):
        first, reason, answer = site.ask("/", "Accept: text/html")
        cookie = answer.headers["set-cookie"].partition(";")[0]
        expect_equal((reason, cookie.partition("=")[0]), ("key", "version-key"))
        expect_equal(site.goes_by(cookie.partition("=")[2], "/", f"Cookie: {cookie}"), first, cookie)
    site.draws("/", "Accept: application/json")
    site.end()
