"""Start, reload, drain and end, most of it under load."""

import contextlib
import http.client
import re
import signal
import ssl
import subprocess
import threading

from harness import GRADUAL, Program, accepts, check, eventually, expect, expect_equal, free_ports

IDS = {"v1": "3f1e6f0a-5f0f-4a39-8c57-0c5f0b2f9f11", "v2": "b0a1c6f2-8f0c-4a52-9a53-2a8f6f1d7c22"}


class Site:
    """A program of its own with one worker and two versions."""

    def __init__(self, world, name, upstreams, watch=False):
        self.world, self.upstreams = world, upstreams
        self.port, self.admin = free_ports(2)
        self.program = Program(world, name, self.text(10), watch)

    def text(self, canary):
        """The file with so many per cent for v2."""
        versions = "".join(
            f'[[worker.version]]\nid = "{IDS[tag]}"\ntag = "{tag}"\nupstreams = ["http://127.0.0.1:{port}"]\n'
            for tag, port in zip(IDS, self.upstreams))
        return f"""
[[listener]]
address = "127.0.0.1:{self.port}"
[admin]
address = "127.0.0.1:{self.admin}"
[[worker]]
name = "site"
{versions}
[worker.deployment]
versions = [
  {{ version_id = "{IDS["v2"]}", percentage = {canary} }},
  {{ version_id = "{IDS["v1"]}", percentage = {100 - canary} }},
]
"""

    def versions(self, keys):
        """The version of each key."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        reached = []
        with contextlib.closing(connection):
            for key in keys:
                connection.request("GET", "/", headers={"Cloudflare-Workers-Version-Key": key})
                reached.append(connection.getresponse().read().decode().strip())
        return reached

    def load(self, seconds):
        """Start HTTP/1.1 and HTTP/2 load; returns what ends both and says how many requests succeeded and failed."""
        url = f"http://127.0.0.1:{self.port}/"
        commands = [["wrk", "-t1", "-c32", f"-d{seconds}s", "--timeout", "10s", url],
                    ["h2load", "-t1", "-c8", "-m8", f"-D{seconds}", url]]
        running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
                   for command in commands]
        self.world.processes.running += running
        first = self.program.metric("gradual_requests_total")
        eventually(lambda: self.program.metric("gradual_requests_total") > first + 500, "load arrives")
        return lambda: [process.communicate(timeout=seconds + 20)[0] for process in running]


KEYS = [f"visitor {number}" for number in range(400)]


@check
def no_request_fails_while_the_split_changes_under_load(world):
    site = Site(world, "reload", world.nginx[2:])
    finish = site.load(5)
    before = site.versions(KEYS)
    for canary in (20, 35, 50, 75, 100, 50):
        site.program.reload(site.text(canary))
        after = site.versions(KEYS)
        moved = {change for change in zip(before, after) if change[0] != change[1]}
        wanted = {("v2", "v1")} if before.count("v2") > after.count("v2") else {("v1", "v2")}
        expect(moved == wanted and abs(after.count("v2") / len(KEYS) - canary / 100) < 0.12, (canary, moved))
        before = after
    wrk, h2load = finish()
    expect("Socket errors" not in wrk and "Non-2xx" not in wrk and "Requests/sec" in wrk, wrk)
    counts = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", h2load)
    expect(counts and int(counts[1]) > 0 and [int(counts[n]) for n in (2, 3, 4)] == [0, 0, 0], h2load)
    expect_equal(world.processes.end(site.program.process), 0, "exit code")


@check
def a_bad_file_changes_nothing_and_is_reported(world):
    site = Site(world, "bad", world.nginx[2:])
    before = site.versions(KEYS)
    reloads = site.program.metric("gradual_reloads_total")
    bad = site.text(60).replace("percentage = 40", "percentage = 41")
    site.program.file.write_text(bad)
    site.program.process.send_signal(signal.SIGHUP)
    eventually(lambda: site.program.metric("gradual_reloads_total") > reloads, "the reload is counted")
    expect_equal(site.versions(KEYS), before)
    status, body = site.program.ask("POST", "/api/v1/reload", {"Content-Type": "application/json"})
    expect(400 <= status < 500 and "101" in body, (status, body))
    checked = subprocess.run([GRADUAL, "check", site.program.file], capture_output=True, text=True)
    expect_equal(checked.returncode, 1)
    expect("bad.toml:" in checked.stdout + checked.stderr and "101" in checked.stdout + checked.stderr, checked)
    eventually(lambda: "101" in site.program.said(), "the report is logged")
    site.program.file.write_text(site.text(100))
    status, body = site.program.ask("POST", "/api/v1/reload", {"Content-Type": "application/json"})
    expect_equal(status, 200, body)
    expect_equal(set(site.versions(KEYS)), {"v2"})
    expect_equal(world.processes.end(site.program.process, signal.SIGINT), 0, "exit code")


@check
def a_watched_file_is_reloaded_when_it_is_replaced(world):
    site = Site(world, "watched", world.nginx[2:], watch=True)
    replacement = world.folder / "watched.new"
    replacement.write_text(site.text(100))
    replacement.rename(site.program.file)
    eventually(lambda: site.program.metric("gradual_config_generation") == 2, "the watch notices")
    expect_equal(set(site.versions(KEYS)), {"v2"})
    expect_equal(world.processes.end(site.program.process), 0, "exit code")


def held_requests(site, gate, count, results):
    """Start requests that the backend holds at a gate; their statuses, and whether whole, are added to the results."""
    def ask():
        connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=30)
        with contextlib.closing(connection):
            try:
                connection.request("GET", f"/gate/{gate}")
                response = connection.getresponse()
                results.append((response.status, response.read() in (b"v1\n", b"v2\n")))
            except (OSError, http.client.HTTPException) as error:
                results.append(error)

    threads = [threading.Thread(target=ask) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads


@check
def sigterm_under_load_finishes_what_is_in_flight_and_exits_with_0(world):
    site = Site(world, "drain", [world.v1.port, world.v2.port])
    results = []
    threads = held_requests(site, "drain", 16, results)
    gates = [backend.gate("drain") for backend in (world.v1, world.v2)]
    eventually(lambda: sum(gate.held for gate in gates) == 16, "all requests are held")
    finish = site.load(3)
    site.program.process.send_signal(signal.SIGTERM)
    eventually(lambda: not accepts(site.port), "nothing is accepted any more")
    expect(site.program.process.poll() is None and not results, "it did not wait for what was in flight")
    for gate in gates:
        gate.open()
    for thread in threads:
        thread.join(20)
    expect_equal(results, [(200, True)] * 16)
    expect_equal(site.program.process.wait(20), 0, "exit code")
    wrk, h2load = finish()
    expect("Non-2xx" not in wrk, wrk)
    answered = re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", h2load)
    expect(answered and int(answered[1]) > 0 and [int(answered[n]) for n in (2, 3, 4)] == [0, 0, 0], h2load)


@check
def a_second_signal_ends_it_at_once(world):
    site = Site(world, "twice", [world.v1.port, world.v2.port])
    results = []
    threads = held_requests(site, "twice", 1, results)
    gates = [backend.gate("twice") for backend in (world.v1, world.v2)]
    eventually(lambda: sum(gate.held for gate in gates) == 1, "the request is held")
    site.program.process.send_signal(signal.SIGTERM)
    eventually(lambda: not accepts(site.port), "nothing is accepted any more")
    expect(site.program.process.poll() is None, "it did not wait for what was in flight")
    code = world.processes.end(site.program.process)
    expect(code not in (0, 1), f"exit code {code}")
    for gate in gates:
        gate.open()
    threads[0].join(20)
    expect(results and isinstance(results[0], Exception), results)


@check
def an_address_in_use_is_noticed_with_exit_code_1(world):
    text = world.program.file.read_text()
    second = world.folder / "second.toml"
    second.write_text(text.replace(f":{world.admin}\"", f":{free_ports(1)[0]}\""))
    done = subprocess.run([GRADUAL, "run", second], capture_output=True, text=True, timeout=20)
    expect_equal(done.returncode, 1, done.stderr)
    expect(str(world.plain) in done.stderr, done.stderr)
    expect_equal(world.curl("http://shop.test/").status, 200)


@check
def a_good_file_is_checked_with_one_line(world):
    done = subprocess.run([GRADUAL, "check", world.program.file], capture_output=True, text=True)
    expect_equal((done.returncode, len(done.stdout.splitlines())), (0, 1), done.stderr)


class Secure:
    """A program of its own that serves https, and asks for client certificates where told so."""

    def __init__(self, world, name):
        self.world, self.folder = world, world.folder
        self.port, self.admin = free_ports(2)
        self.renew()
        self.program = Program(world, name, self.text(""))

    def text(self, more):
        return f"""
[[listener]]
address = "127.0.0.1:{self.port}"
tls = [{{ certificate = "site.pem", key = "site.key" }}]
{more}
[admin]
address = "127.0.0.1:{self.admin}"
[[worker]]
name = "site"
[[worker.version]]
id = "only"
upstreams = ["http://127.0.0.1:{self.world.nginx[2]}"]
[worker.deployment]
versions = [{{ version_id = "only", percentage = 100 }}]
"""

    def renew(self):
        """A new certificate in the old one's place."""
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "site.key"]
        sign = ["-CA", "ca.pem", "-CAkey", "ca.key", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
        sign += ["-addext", "basicConstraints=critical,CA:FALSE"]
        command = ["openssl", "req", "-x509", *key, *sign, "-subj", "/CN=site", "-out", "site.pem"]
        subprocess.run(command, cwd=self.folder, check=True, capture_output=True)

    def shown(self):
        """The certificate that a client is shown."""
        return ssl.get_server_certificate(("127.0.0.1", self.port))

    def curl(self, *words):
        return self.world.curl(f"https://127.0.0.1:{self.port}/", *words, port=self.port)


@check
def a_renewed_certificate_is_served_after_a_reload(world):
    site = Secure(world, "renewed")
    old = site.shown()
    site.renew()
    expect_equal(site.shown(), old, "before the reload")
    site.program.reload(site.text(""))
    expect(site.shown() != old and site.curl().status == 200, "the old certificate is still served")
    (world.folder / "site.pem").write_text("-----BEGIN CERTIFICATE-----\nbroken\n")
    good, status = site.shown(), site.program.ask("POST", "/api/v1/reload", {"Content-Type": "application/json"})
    expect(400 <= status[0] < 500 and "site.pem" in status[1], status)
    expect_equal(site.shown(), good, "after a broken certificate")
    expect_equal(world.processes.end(site.program.process), 0, "exit code")


@check
def client_certificates_are_demanded_and_verified(world):
    site = Secure(world, "mutual")
    site.program.reload(site.text('client_ca = "ca.pem"'))
    good = site.curl("--cert", world.folder / "cert.pem", "--key", world.folder / "key.pem")
    expect_equal(good.status, 200, good.trace)
    expect(site.curl().exit_code != 0, "a client without a certificate was answered")
    stranger = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "other.key", "-out", "other.pem"]
    command = ["openssl", "req", "-x509", *stranger, "-subj", "/CN=stranger", "-days", "2"]
    subprocess.run(command, cwd=world.folder, check=True, capture_output=True)
    refused = site.curl("--cert", world.folder / "other.pem", "--key", world.folder / "other.key")
    expect(refused.exit_code != 0, "a stranger's certificate was taken")
    expect_equal(world.processes.end(site.program.process), 0, "exit code")
