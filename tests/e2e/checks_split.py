"""Which version a request reaches."""

import http.client
import json
import subprocess

import xxhash
from harness import GRADUAL, check, expect, expect_equal

KEY = "Cloudflare-Workers-Version-Key"
OVERRIDES = "Cloudflare-Workers-Version-Overrides"


def versions(world, headers):
    """The versions that requests with these headers reach, one request for each, over one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", world.plain, timeout=10)
    reached = []
    for each in headers:
        connection.request("GET", "/", headers={"Host": "shop.test"} | each)
        response = connection.getresponse()
        reached.append(response.read().decode().strip())
    connection.close()
    return reached


def position(key, salt=b"shop"):
    """Where a key falls, computed here from nothing but the published formula."""
    return xxhash.xxh3_64_intdigest(key, seed=xxhash.xxh3_64_intdigest(salt)) * 100_000 >> 64


def by_formula(key):
    """The version of a key: v2 comes first, with 10 %."""
    return "v2" if position(key) < 10_000 else "v1"


@check
def every_key_goes_where_the_published_formula_says(world):
    keys = [f"visitor {number}" for number in range(500)]
    got = versions(world, [{KEY: key} for key in keys])
    expect_equal(got, [by_formula(key.encode()) for key in keys])
    expect(25 <= got.count("v2") <= 75, got.count("v2"))


@check
def a_key_keeps_its_version_over_every_protocol(world):
    for number in range(8):
        header = ["-H", f"{KEY}: cart-{number}"]
        wanted = by_formula(f"cart-{number}".encode()) + "\n"
        answers = [world.curl("http://shop.test/", "--http1.1", *header), world.curl("https://shop.test/", *header),
                   world.curl("http://shop.test/", "--http2-prior-knowledge", *header),
                   world.curl("http://shop.test/", "--unix-socket", world.socket, *header)]
        expect_equal([answer.text for answer in answers], [wanted] * 4)


@check
def without_a_key_every_request_draws(world):
    reached = versions(world, [{}] * 2000)
    expect(110 <= reached.count("v2") <= 290, f"{reached.count('v2')} of 2000 reached the version with 10 %")
    expect_equal(reached.count("v3"), 0, "the version with 0 %")


@check
def an_override_wins_over_a_key_and_reaches_a_version_with_0_per_cent(world):
    for tag, version in world.versions.items():
        answer = world.curl("http://shop.test/", "-H", f'{OVERRIDES}: shop="{version}"', "-H", f"{KEY}: cart-1")
        expect_equal(answer.text, f"{tag}\n")
        expect_equal(answer.headers["gradual-version"], f'"{version}";worker=shop;tag="{tag}";reason=override')


@check
def an_override_that_does_not_count_says_why(world):
    cases = {
        f'shop="{world.versions["v3"]}", ,': "invalid",
        "shop=3": "not-a-string",
        'shop="2f2d6b0c-0000-4000-8000-000000000000"': "not-in-deployment",
    }
    for field, why in cases.items():
        answer = world.curl("http://shop.test/", "-H", f"{OVERRIDES}: {field}", "-H", f"{KEY}: cart-1")
        expect_equal(answer.text, by_formula(b"cart-1") + "\n", field)
        said = answer.headers["gradual-version"]
        expect(said.endswith(f"reason=key;override={why}"), f"{field}: {said}")


@check
def an_override_for_another_worker_is_no_override(world):
    answer = world.curl("http://shop.test/", "-H", f'{OVERRIDES}: other="x"', "-H", f"{KEY}: cart-1")
    expect(answer.headers["gradual-version"].endswith(";reason=key"), answer.headers["gradual-version"])


@check
def explain_says_what_the_proxy_does(world):
    for key in ("visitor 1", "visitor 7", "visitor 33"):
        command = [GRADUAL, "explain", "--file", world.program.file, "--worker", "shop", "--key", key, "--json"]
        done = subprocess.run(command, capture_output=True, text=True)
        expect_equal(done.returncode, 0, done.stderr)
        said = json.loads(done.stdout)
        version = versions(world, [{KEY: key}])[0]
        expect_equal((said["worker"], said["reason"], said["version_id"]), ("shop", "key", world.versions[version]))
        expect_equal(said["position"], position(key.encode()))
