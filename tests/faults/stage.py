"""What the scenarios stand on: processes, backends, load, and what the kernel says about a process."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import namedtuple
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


class Broken(Exception):
    """The scenario itself could not be played; the text says why."""


class Skipped(Exception):
    """The scenario cannot be played here; the text says why."""


# One request, as load.py writes it.
Request = namedtuple("Request", "due took method key identity outcome version backend late kind")


def eventually(question, what, patience=20.0):
    """Ask again and again until the answer is true, and return it."""
    deadline = time.monotonic() + patience
    while True:
        answer = question()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise Broken(f"in {patience:.0f} s it never happened that {what}")
        time.sleep(0.02)


def accepts(port):
    """Whether something accepts connections there."""
    try:
        socket.create_connection(("127.0.0.1", port), 2).close()
        return True
    except OSError:
        return False


def hold_port():
    """A port that nobody else gets as long as the socket is open; with SO_REUSEPORT, who knows of it can listen there."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    held.bind(("127.0.0.1", 0))
    return held, held.getsockname()[1]


def percentile(values, share):
    """The value that so large a share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")


class Stage:
    """What one scenario has started; all of it ends with the scenario."""

    def __init__(self, options, proxies):
        self.options, self.proxies, self.program = options, proxies, options.gradual
        self.closing = contextlib.ExitStack()
        self.folder = Path(self.closing.enter_context(tempfile.TemporaryDirectory(prefix="gradual-faults-")))
        self.folder.chmod(0o755)
        self.journal = self.folder / "journal"
        self.journal.touch()
        self.running, self.loads = [], 0
        self.backends = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in reversed(self.running):
            if process.poll() is None:
                process.terminate()
        for process in self.running:
            self.end(process, None, 1)
        self.closing.close()

    def pick(self, short, full):
        """A figure of the short form, or that of the full one."""
        return full if self.options.full else short

    def start(self, command, name, **options):
        """Start a process whose output goes to NAME.out."""
        with open(self.folder / f"{name}.out", "ab") as out:
            options = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": out, "cwd": self.folder} | options
            process = subprocess.Popen([str(word) for word in command], **options)
        self.running.append(process)
        return process

    def said(self, name):
        return (self.folder / f"{name}.out").read_text(errors="replace")[-2000:]

    def end(self, process, number=signal.SIGTERM, patience=10):
        """Send a signal, wait, and return the exit code; what does not end is killed, with all that descends from it."""
        if process.poll() is None and number is not None:
            process.send_signal(number)
        try:
            return process.wait(patience)
        except subprocess.TimeoutExpired:
            for pid in reversed(tree(process.pid)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return process.wait()

    def port(self):
        held, port = hold_port()
        self.closing.enter_context(held)
        return port

    def free_ports(self, count):
        """Ports for programs that do not share theirs."""
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
            for each in sockets:
                each.bind(("127.0.0.1", 0))
            return [each.getsockname()[1] for each in sockets]

    def certificate(self):
        """A certificate for site.test and its key, in one file."""
        file = self.folder / "certificate.pem"
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                   "-subj", "/CN=site.test", "-addext", "subjectAltName=DNS:site.test", "-keyout", "-", "-out", "-"]
        file.write_bytes(subprocess.run(command, check=True, capture_output=True).stdout)
        return str(file)

    def backend(self, name, version, **settings):
        backend = Backend(self, name, version, settings)
        self.backends.append(backend)
        return backend

    def load(self, proxies, **plan):
        """Put load on several proxies at the same moments."""
        return self.prepare(proxies, **plan).begin()

    def prepare(self, proxies, **plan):
        """Load that is ready to begin."""
        self.loads += 1
        running = {}
        for proxy in proxies:
            name = f"load-{self.loads}-{proxy.name}"
            files = [self.folder / f"{name}.{end}" for end in ("plan", "result")]
            keys = plan.get("keys") or KEYS
            keys = keys[proxy.name] if isinstance(keys, dict) else keys
            place = {"name": name, "port": proxy.port, "tls_port": proxy.tls_port, "keys": keys}
            files[0].write_text(json.dumps(plan | place))
            pipes = {"text": True, "stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            process = self.start([sys.executable, "-B", HERE / "load.py", *files], name, **pipes)
            running[proxy.name] = (process, files[1])
        return Load(self, running)

    def delivered(self):
        """What the backends have noted so far: for each request, the names of those that it reached, and those that
        answered it."""
        noted = {"R": {}, "A": {}, "L": {}}
        for line in self.journal.read_text().splitlines():
            letter, name, identity, *_ = line.split(" ")
            noted[letter].setdefault(identity, []).append(name)
        return noted["R"], noted["A"]


# The visitors of every scenario: few enough that each is seen in two seconds of load.
KEYS = [f"visitor {number}" for number in range(250)]


class Load:
    """Load from several processes, one for each proxy."""

    def __init__(self, stage, running):
        self.stage, self.running, self.start = stage, running, 0.0
        # How many requests of each proxy were sent again, because it had said that it did not process them.
        self.repeated = {}
        for name, (process, file) in running.items():
            if process.stdout.readline() != "ready\n":
                raise Broken(f"the load for {name} does not start: {stage.said(file.stem)}")

    def begin(self, start=None):
        self.start = start or time.monotonic() + 0.1
        for process, _ in self.running.values():
            process.stdin.write(f"{self.start}\n")
            process.stdin.flush()
        return self

    def wait_until(self, seconds):
        """Sleep until so many seconds of load have passed."""
        time.sleep(max(0.0, self.start + seconds - time.monotonic()))

    def finish(self):
        """End the load now, and return what `wait` does."""
        for process, _ in self.running.values():
            process.stdin.close()
        return self.wait()

    def wait(self, patience=120):
        """The requests of each proxy, in the order in which they were due."""
        results = {}
        for name, (process, file) in self.running.items():
            if self.stage.end(process, None, patience) != 0:
                raise Broken(f"the load for {name} failed: {self.stage.said(file.stem)}")
            result = json.loads(file.read_text())
            self.repeated[name] = result["repeated"]
            rows = [Request(*row) for row in result["rows"]]
            if not rows:
                raise Broken(f"there was no load for {name}")
            results[name] = sorted(rows)
        return results


class Backend:
    """A backend's process, its ports (one for each proxy), and its life."""

    def __init__(self, stage, name, version, settings):
        self.stage, self.name, self.version, self.settings = stage, name, version, settings
        self.ports = {proxy: stage.port() for proxy in stage.proxies}
        self.start()

    def start(self):
        command = [sys.executable, "-B", HERE / "backend.py", self.name, self.version, self.stage.journal]
        with open(self.stage.folder / f"{self.name}.out", "ab") as out:
            self.process = self.stage.start([*command, *self.ports.values()], self.name, text=True,
                                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=out)
        if self.process.stdout.readline() != "ready\n":
            raise Broken(f"the backend {self.name} does not start: {self.stage.said(self.name)}")
        self.tell(**self.settings)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def tell(self, **command):
        """Send a command; returns what each port has seen, by proxy."""
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise Broken(f"the backend {self.name} has ended: {self.stage.said(self.name)}")
        return dict(zip(self.ports, json.loads(answer)))


def tree(pid):
    """A process and all that descend from it."""
    pids = [pid]
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            pids += [each for child in children.read_text().split() for each in tree(int(child))]
    return pids


def alive(pid):
    """Whether a process runs. One that has ended, and that nobody has asked after, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def cpu_seconds(pid):
    """The time on a core of every thread of a process tree."""
    nanoseconds = 0
    for process in tree(pid):
        for thread in Path(f"/proc/{process}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):
                nanoseconds += int(thread.read_text().split()[0])
    return nanoseconds / 1e9


def memory(pid):
    """The proportional set size of a process tree, in KiB."""
    total = 0
    for process in tree(pid):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
    return total


def kernel_memory():
    """What the kernel holds in TCP sockets' buffers, machine-wide, in KiB."""
    for line in Path("/proc/net/sockstat").read_text().splitlines():
        words = line.split()
        if words[0] == "TCP:":
            return int(words[words.index("mem") + 1]) * os.sysconf("SC_PAGE_SIZE") // 1024
    return 0


def descriptors(pid):
    """How many files a process tree has open."""
    total = 0
    for process in tree(pid):
        with contextlib.suppress(OSError):
            total += len(os.listdir(f"/proc/{process}/fd"))
    return total


def threads(pid):
    """How many threads a process tree has."""
    return sum(len(os.listdir(f"/proc/{process}/task")) for process in tree(pid))
