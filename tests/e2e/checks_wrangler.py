"""The real wrangler, as Cloudflare publishes it, drives the proxy: versions, deployments, rollbacks and tails."""

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import threading
from collections import Counter

from harness import GRADUAL, Program, Skipped, eventually, expect, expect_equal, free_ports, long_check

V1 = "db7cd8d3-4425-4fe7-8c81-01bf963b6067"
V2 = "dc8dcd28-271b-4367-9840-6c244f84cb40"
TOKEN = "a token that nobody guesses".replace(" ", "-")
OVERRIDES = "Cloudflare-Workers-Version-Overrides"
# Colours and cursor movements.
CONTROLS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Site:
    """A proxy of its own, with a token, and wrangler beside it."""

    def __init__(self, world, name):
        if "WRANGLER" not in os.environ:
            raise Skipped("E2E_BROWSER=skip leaves out what needs node")
        self.world = world
        self.folder = world.folder / f"{name}-home"
        self.folder.mkdir()
        (self.folder / "worker.js").write_text("export default { fetch() { return new Response('no') } }")
        (world.folder / "wrangler.token").write_text(TOKEN)
        (world.folder / "wrangler.token").chmod(0o600)
        self.port, admin = free_ports(2)
        self.program = Program(world, name, self.text(admin))
        self.environment = os.environ | {
            "CLOUDFLARE_API_BASE_URL": f"http://127.0.0.1:{admin}/client/v4", "CLOUDFLARE_API_TOKEN": TOKEN,
            "CLOUDFLARE_ACCOUNT_ID": "whatever", "WRANGLER_SEND_METRICS": "false", "CI": "1", "NO_COLOR": "1",
            "HOME": str(self.folder), "XDG_CONFIG_HOME": str(self.folder), "no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"}

    def text(self, admin):
        return f"""
[server]
threads = 2
[[listener]]
address = "127.0.0.1:{self.port}"
[admin]
address = "127.0.0.1:{admin}"
token_file = "wrangler.token"

[[worker]]
name = "shop"
[[worker.version]]
id = "{V1}"
tag = "v1"
message = "the first"
created_on = 2026-11-20T12:00:00Z
upstreams = ["http://127.0.0.1:{self.world.v1.port}"]
[[worker.version]]
id = "{V2}"
tag = "v2"
upstreams = ["http://127.0.0.1:{self.world.v2.port}"]
# This comment stays where it is.
[worker.deployment]
versions = [{{ version_id = "{V1}", percentage = 100 }}]
"""

    def start(self, *words, **options):
        """wrangler with these words, as a process."""
        command = [*os.environ["WRANGLER"].split("\n"), *words]
        with (self.folder / "errors").open("w") as errors:
            process = subprocess.Popen(command, cwd=self.folder, env=self.environment | options, text=True,
                                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors)
        self.world.processes.running.append(process)
        return process

    def wrangler(self, *words, code=0, **options):
        """What wrangler prints; its exit code is as expected. Errors come last."""
        process = self.start(*words, **options)
        said, _ = process.communicate(timeout=60)
        said = CONTROLS.sub("", said + (self.folder / "errors").read_text() * (code != 0))
        expect_equal(process.returncode, code, f"exit code of wrangler {' '.join(words)}:\n{said}")
        return said

    def says(self, said, *texts):
        for text in texts:
            expect(text in said, f"{text!r} is not in:\n{said}")

    def ask(self, headers=None, path="/"):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", path, headers=headers or {})
            return connection.getresponse().read().decode().strip()

    def traffic(self, count=400):
        """How many requests without a key reach each version."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        reached = Counter()
        with contextlib.closing(connection):
            for _ in range(count):
                connection.request("GET", "/")
                reached[connection.getresponse().read().decode().strip()] += 1
        return reached

    def overridden(self, version):
        return self.ask({OVERRIDES: f'shop="{version}"'})

    def gradual(self, *words):
        """What a command of the program itself says, as JSON."""
        command = [GRADUAL, *words, "--file", self.program.file, "--json"]
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=30)
        expect_equal(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def split(self):
        """The active deployment, which the program's own command and wrangler tell alike."""
        told = json.loads(self.wrangler("deployments", "status", "--json", "--name", "shop"))
        own = self.gradual("deployments", "status")
        shares = lambda deployment: {one["version_id"]: one["percentage"] for one in deployment["versions"]}
        expect_equal((own["id"], shares(own)), (told["id"], shares(told)))
        return shares(told)

    def end(self):
        expect_equal(self.world.processes.end(self.program.process), 0, "exit code")


@long_check
def wrangler_lists_and_deploys_versions_and_traffic_follows(world):
    site = Site(world, "driven")
    said = site.wrangler("versions", "list", "--name", "shop")
    site.says(said, f"Version ID:  {V1}", f"Version ID:  {V2}", "Tag:         v1", "Message:     the first",
              "Created:     2026-11-20T12:00:00.000Z")
    expect(said.index(V1) < said.index(V2), said)
    site.says(site.wrangler("versions", "view", V1, "--name", "shop"), V1, f"127.0.0.1:{world.v1.port}")
    expect_equal(site.traffic(50), {"v1": 50})
    expect_equal(site.overridden(V2), "v1", "an override before the version is deployed")

    said = site.wrangler("versions", "deploy", f"{V1}@10%", f"{V2}@90%", "--name", "shop")
    site.says(said, f"Deployed shop version {V1} at 10% and version {V2} at 90%")
    expect_equal(site.split(), {V1: 10, V2: 90})
    reached = site.traffic()
    expect(10 <= reached["v1"] <= 90 and reached["v1"] + reached["v2"] == 400, reached)
    expect_equal([site.overridden(version) for version in (V1, V2)], ["v1", "v2"])

    words = ["versions", "deploy", "--version-tag", "v1@100", "--version-tag", "v2@0", "--message", "by tag"]
    site.says(site.wrangler(*words, "--name", "shop"), f"version {V1} at 100% and version {V2} at 0%")
    expect_equal(site.split(), {V1: 100, V2: 0})
    expect_equal((site.traffic(50), site.overridden(V2)), ({"v1": 50}, "v2"))

    said = site.wrangler("deployments", "list", "--name", "shop")
    site.says(said, "Source:      Wrangler", "Message:     by tag", f"(10%) {V1}", f"(90%) {V2}", f"(0%) {V2}")
    expect("# This comment stays where it is." in site.program.file.read_text(), "the comment")
    site.end()


@long_check
def wrangler_rolls_back_with_and_without_a_version(world):
    site = Site(world, "rollback")
    site.wrangler("versions", "deploy", f"{V1}@50", f"{V2}@50", "--name", "shop")
    site.says(site.wrangler("rollback", "--name", "shop"), f"Current Version ID: {V1}")
    expect_equal((site.split(), site.traffic(50)), ({V1: 100}, {"v1": 50}))
    site.says(site.wrangler("rollback", V2, "--message", "back again", "--name", "shop"), f"Current Version ID: {V2}")
    expect_equal((site.split(), site.traffic(50)), ({V2: 100}, {"v2": 50}))
    site.says(site.wrangler("deployments", "list", "--name", "shop"), "Message:     Rollback", "Message:     back again")
    site.end()


@long_check
def wrangler_prints_why_something_cannot_be_done_and_what_to_do_instead(world):
    site = Site(world, "refusals")
    before = site.program.file.read_text()
    upload = f"gradual versions upload --worker shop --upstream http://HOST:PORT --file {site.program.file}"
    script = ["worker.js", "--name", "shop", "--compatibility-date", "2026-01-01"]
    for words, texts in [
        (["deploy", *script], [upload]),
        (["versions", "upload", *script], [upload]),
        (["secret", "list", "--name", "shop"], [upload]),
        (["versions", "list", "--name", "shpo"], ["did you mean `shop`?", "[code: 10007]"]),
        (["versions", "view", V1[:8], "--name", "shop"], [f"did you mean `{V1}`?", "[code: 100146]"]),
        (["versions", "deploy", f"{V1}@20", f"{V2}@20", "--name", "shop"], ["must total exactly 100%"]),
        (["tail", "shop", "--version-id", "nonsense"], ["no version `nonsense`"]),
    ]:
        site.says(site.wrangler(*words, code=1), *texts)
    said = site.wrangler("versions", "list", "--name", "shop", code=1, CLOUDFLARE_API_TOKEN="wrong-wrong-wrong-wrong")
    site.says(said, "the proxy wants the token")
    expect_equal(site.program.file.read_text(), before, "the file")
    site.end()


@long_check
def wrangler_tails_requests_of_all_versions_or_of_one(world):
    site = Site(world, "tail")
    site.wrangler("versions", "deploy", f"{V1}@50", f"{V2}@50", "--name", "shop")
    all_of_them = Listener(site.start("tail", "shop", "--format", "pretty"))
    of_one = Listener(site.start("tail", "shop", "--format", "json", "--version-id", V2))

    def visited(listener, text):
        """Whether a tail shows a text, once both versions have been visited again."""
        for version, path in ((V1, "/one?access_token=opensesame"), (V2, "/two")):
            site.ask({OVERRIDES: f'shop="{version}"', "Cookie": "sid=opensesame", "X-Plain": "plain"}, path)
        return text in listener.said

    eventually(lambda: visited(all_of_them, "/two - Ok @ "), "the tail shows requests", patience=60)
    eventually(lambda: visited(of_one, '"gradual"'), "the tail of a version shows requests", patience=60)
    site.says(all_of_them.said, f"GET http://127.0.0.1:{site.port}/one?access_token=REDACTED - Ok @ ")
    site.says(of_one.said, f'"id": "{V2}"', f'"url": "http://127.0.0.1:{site.port}/two"', '"cookie": "REDACTED"',
              '"x-plain": "plain"', '"status": 200')
    for process in (all_of_them.process, of_one.process):
        process.send_signal(signal.SIGINT)
        process.wait(30)
    expect("/one" not in of_one.said, of_one.said)
    expect("opensesame" not in all_of_them.said + of_one.said, "a credential was shown")
    site.end()


class Listener:
    """What a process prints, as it comes."""

    def __init__(self, process):
        self.process, self.said = process, ""
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        for line in self.process.stdout:
            self.said += CONTROLS.sub("", line)
