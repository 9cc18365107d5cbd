"""What the checks stand on: processes, the program under test, curl, and the runner."""

import contextlib
import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

GRADUAL = os.environ["GRADUAL"]
# The longest that one check may take, in seconds; it ends a hang and decides nothing else.
PATIENCE = 40


class Failed(Exception):
    """A check that does not hold; the text says what was seen."""


class Skipped(Exception):
    """A check that cannot be made on this machine; the text says why."""


def expect(condition, seen):
    """Fail with what was seen unless the condition holds."""
    if not condition:
        raise Failed(str(seen))


def expect_equal(got, wanted, what=""):
    """Fail unless both are equal."""
    expect(got == wanted, f"{what}: expected {wanted!r}, got {got!r}".removeprefix(": "))


def eventually(question, what, patience=15.0):
    """Ask again and again until the answer is true, and return it; the check fails when patience ends."""
    deadline = time.monotonic() + patience
    while True:
        answer = question()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise Failed(f"in {patience:.0f} s it never happened that {what}")
        time.sleep(0.02)


def check(function):
    """Mark a function as a check; its name is the sentence that must be true."""
    function.is_check = True
    return function


def long_check(function):
    """A check that has much to do, and so more time."""
    function.patience = 3 * PATIENCE
    return check(function)


def free_ports(count):
    """Ports that nobody listens on, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def accepts(port):
    """Whether something accepts connections there."""
    try:
        socket.create_connection(("127.0.0.1", port), 2).close()
        return True
    except OSError:
        return False


class Processes:
    """Every process that was started here; each is ended by its own process id."""

    def __init__(self):
        self.running = []

    def start(self, command, output, **options):
        with open(output, "ab") as out:
            options = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": out} | options
            process = subprocess.Popen([str(word) for word in command], **options)
        self.running.append(process)
        return process

    def end(self, process, number=signal.SIGTERM, patience=10):
        """Send a signal and return the exit code."""
        if process.poll() is None:
            process.send_signal(number)
        try:
            return process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise Failed(f"{process.args[0]} did not end within {patience} s of {number!r}") from None

    def end_all(self):
        for process in reversed(self.running):
            with contextlib.suppress(Failed):
                self.end(process, patience=5)


@dataclass
class Answer:
    """What curl got."""

    status: int
    version: str
    headers: dict
    body: bytes
    exit_code: int
    trace: str

    @property
    def text(self):
        return self.body.decode()


class Program:
    """One running `gradual run`, with its file."""

    def __init__(self, world, name, text, watch=False):
        self.world, self.name = world, name
        self.file = world.folder / f"{name}.toml"
        self.out = world.folder / f"{name}.out"
        self.file.write_text(text)
        self.admin = int(re.search(r'\[admin\]\s+address = "127\.0\.0\.1:(\d+)"', text)[1])
        command = [GRADUAL, "run", self.file] + (["--watch"] if watch else [])
        self.process = world.processes.start(command, self.out, cwd=world.folder)
        eventually(self.is_ready, f"{name} is ready:\n{self.said()}")

    def said(self):
        return self.out.read_text(errors="replace")[-3000:]

    def is_ready(self):
        if self.process.poll() is not None:
            raise Failed(f"{self.name} ended with exit code {self.process.returncode}:\n{self.said()}")
        try:
            return self.ask("GET", "/readyz")[0] == 200
        except OSError:
            return False

    def ask(self, method, path, headers=None):
        """A request to the admin address: status and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=10)
        with contextlib.closing(connection):
            connection.request(method, path, headers=headers or {})
            response = connection.getresponse()
            return response.status, response.read().decode()

    def metric(self, name, **labels):
        """The sum of a metric's series that have these labels."""
        total = 0.0
        for line in self.ask("GET", "/metrics")[1].splitlines():
            found = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
            if not found or found[1] != name:
                continue
            has = dict(re.findall(r'(\w+)="([^"]*)"', found[2] or ""))
            if all(has.get(label) == value for label, value in labels.items()):
                total += float(found[3])
        return total

    def reload(self, text):
        """Replace the file, send SIGHUP, and wait until the new generation serves."""
        generation = self.metric("gradual_config_generation")
        self.file.write_text(text)
        self.process.send_signal(signal.SIGHUP)
        eventually(lambda: self.metric("gradual_config_generation") > generation, "the generation grew")


class World:
    """What all checks share: a folder, processes, certificates, backends, and the program under test."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="gradual-e2e-"))
        self.processes = Processes()
        self.closing = contextlib.ExitStack()
        self.certificates()

    def certificates(self):
        """A certificate authority and one certificate for every name that the checks use."""
        openssl = lambda *words: subprocess.run(["openssl", *words], cwd=self.folder, check=True, capture_output=True)
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        openssl("req", "-x509", *key, "-subj", "/CN=e2e authority", "-days", "2", "-keyout", "ca.key", "-out", "ca.pem")
        openssl("req", *key, "-subj", "/CN=e2e", "-keyout", "key.pem", "-out", "request.pem")
        hosts = ",".join(f"DNS:{name}.test" for name in ("shop", "static", "secure", "ws", "grpc", "grpcs"))
        names = f"subjectAltName=DNS:localhost,IP:127.0.0.1,{hosts}\nbasicConstraints=CA:FALSE\n"
        (self.folder / "names.cnf").write_text(names)
        openssl("x509", "-req", "-in", "request.pem", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
                "-days", "2", "-extfile", "names.cnf", "-out", "cert.pem")

    def curl(self, url, *words, port=None, stdin=None):
        """One request with curl; whatever the URL's host is, the connection goes to the port of 127.0.0.1."""
        head, body = self.folder / "curl.head", self.folder / "curl.body"
        for file in (head, body):
            file.write_bytes(b"")
        port = port or (self.tls if url.startswith("https:") else self.plain)
        command = ["curl", "-sSv", "--noproxy", "*", "--max-time", "20", "--cacert", self.folder / "ca.pem"]
        command += ["--connect-to", f"::127.0.0.1:{port}", "-D", head, "-o", body, "-w", "%{http_code} %{http_version}"]
        done = subprocess.run([str(word) for word in [*command, *words, url]], input=stdin, capture_output=True)
        status, _, version = done.stdout.decode().partition(" ")
        headers = {}
        for line in head.read_text(errors="replace").splitlines():
            name, colon, value = line.partition(":")
            if colon:
                headers[name.strip().lower()] = value.strip()
        return Answer(int(status or 0), version, headers, body.read_bytes(), done.returncode,
                      done.stderr.decode(errors="replace"))

    def close(self):
        self.closing.close()
        self.processes.end_all()
        shutil.rmtree(self.folder, ignore_errors=True)


def run_check(world, function):
    """Run one check; returns "passed", "failed" or "skipped"."""
    sentence = function.__name__.replace("_", " ")

    patience = getattr(function, "patience", PATIENCE)

    def hang(*_):
        raise Failed(f"still not done after {patience} s")

    signal.signal(signal.SIGALRM, hang)
    signal.alarm(patience)
    try:
        function(world)
    except Failed as failed:
        print(f"FAIL - {sentence}\n       {failed}", flush=True)
        return "failed"
    except Skipped as skipped:
        print(f"skipped - {sentence}: {skipped}", flush=True)
        return "skipped"
    except Exception:
        print(f"FAIL - {sentence}\n{traceback.format_exc()}", flush=True)
        return "failed"
    finally:
        signal.alarm(0)
    print(f"ok - {sentence}", flush=True)
    return "passed"
