"""The admin API against its own OpenAPI document, by schemathesis."""

import contextlib
import http.client
import json
import subprocess
import sys
from pathlib import Path

from checks_life import IDS, Site
from harness import GRADUAL, expect, expect_equal, long_check

TOKEN = "e2e-0123456789abcdef0123456789abcdef"
SEED = 1
# How long each of both runs goes on, in seconds.
SECONDS = 22
# What is asked for may be well-formed and still not be: 404, 409 and 422 say so. But a request that the document does not
# allow is an error of form, and no request is to be answered with 5xx.
CONFIGURATION = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "404", "409", "422"]
[checks.negative_data_rejection]
expected-statuses = ["400", "401", "404", "405", "413", "415"]
[checks.not_a_server_error]
expected-statuses = ["2xx", "4xx"]
"""


class GuardedSite(Site):
    """A site whose admin address asks for a token."""

    def text(self, canary):
        (self.world.folder / "api.token").write_text(TOKEN)
        (self.world.folder / "api.token").chmod(0o600)
        return super().text(canary).replace(
            f'address = "127.0.0.1:{self.admin}"\n', f'address = "127.0.0.1:{self.admin}"\ntoken_file = "api.token"\n')

    def ask(self, method, path, body=None):
        """A request to the API: status and answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=10)
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        with contextlib.closing(connection):
            connection.request(method, f"/api/v1{path}", json.dumps(body) if body is not None else None, headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read())


def schemathesis(site, name, configuration):
    """Run it with every check; the check fails when any of its checks does."""
    folder = site.world.folder / name
    folder.mkdir()
    (folder / "schemathesis.toml").write_text(configuration)
    # An upgrade would really replace the process under test, by one that is not this test's child: it is checked elsewhere.
    done = subprocess.run(
        [Path(sys.executable).parent / "schemathesis", "--config-file", folder / "schemathesis.toml", "run",
         f"http://127.0.0.1:{site.admin}/api/v1/openapi.json", "-H", f"Authorization: Bearer {TOKEN}",
         "--exclude-path", "/api/v1/upgrade", "--checks", "all", "--continue-on-failure", "--seed", str(SEED),
         "--max-time", str(SECONDS), "--request-timeout", "20", "--generation-database", "none", "--no-color"],
        cwd=folder, capture_output=True, text=True)
    expect_equal(done.returncode, 0, "\n".join(line[:400] for line in done.stdout.splitlines()) + done.stderr[-2000:])
    generated = next((line for line in done.stdout.splitlines() if " generated," in line), "")
    expect("passed" in generated, done.stdout[-2000:])
    print(f"       {name}:{generated}")


@long_check
def the_admin_api_does_what_its_openapi_document_says_of_any_request(world):
    site = GuardedSite(world, "api", [world.v1.port, world.v2.port])
    before = site.ask("GET", "/status")[1]
    # Names of workers are made up first, and then it is always the one that there is: so its changes really happen.
    schemathesis(site, "any-worker", CONFIGURATION)
    schemathesis(site, "this-worker", CONFIGURATION + '[parameters]\n"path.worker" = "site"\n')
    after = site.ask("GET", "/status")[1]
    expect(after["generation"] > before["generation"] + 10, after)
    expect_equal((after["pid"], after["ready"]), (before["pid"], True))
    checked = subprocess.run([GRADUAL, "check", site.program.file], capture_output=True, text=True)
    expect_equal(checked.returncode, 0, checked.stderr)
    # Whatever was uploaded and deployed there: the proxy goes on, and is led back.
    everything = {"versions": [{"version_id": IDS["v1"], "percentage": 100}]}
    status, answer = site.ask("POST", "/workers/site/deployments", everything)
    if answer.get("kind") == "not-deployable":
        everything["versions"][0]["version_id"] = upload(site, world.v1.port)
        status, answer = site.ask("POST", "/workers/site/deployments", everything)
    expect_equal(status, 201, answer)
    expect_equal(set(site.versions(["a", "b", "c"])), {"v1"})


def upload(site, port):
    """A new version at an upstream; returns its id."""
    return site.ask("POST", "/workers/site/versions", {"upstreams": [f"http://127.0.0.1:{port}"]})[1]["version"]["id"]
