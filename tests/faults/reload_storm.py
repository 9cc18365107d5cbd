"""Hundreds of reloads under load, of files that are right, wrong, torn and empty; GRADUAL=path chooses the program.

    tests/faults/reload_storm.py [--count N] [--clients N]

Between two versions at two upstreams every good file moves all traffic. Each answer says where it came from, what the
upstream was told, and what the client is told: they must agree, or a request has seen two configurations. The last line
has the figures. Exit code 1: a request failed, answers are mixed, a reload was lost, or memory, descriptors or threads grew.
"""

import argparse
import asyncio
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# More than this, in per cent of its resident memory, is growth.
GROWTH = 5
PATIENCE = 30


def text(ports, name):
    """The file that sends everything to one of both versions."""
    return f"""
[server]
threads = 2
[[listener]]
address = "127.0.0.1:{ports['front']}"
[admin]
address = "127.0.0.1:{ports['admin']}"
[[worker]]
name = "storm"
expose_version = true
[[worker.version]]
id = "version-{name}"
tag = "tag-{name}"
upstreams = ["http://127.0.0.1:{ports[name]}"]
[worker.deployment]
versions = [{{ version_id = "version-{name}", percentage = 100 }}]
"""


def files(ports):
    """What is written, over and over: the text, and the version that serves afterwards (none: what served before)."""
    a, b = text(ports, "a"), text(ports, "b")
    wrong = a.replace("percentage = 100", "percentage = 101")
    return [(b, "b"), (wrong, None), (b[: len(b) // 2], None), (a, "a"), ("", None), (a[: len(a) - 9], None)]


class Upstream:
    """Answers with its name and what it was told, and closes its connections when asked to."""

    def __init__(self, name):
        self.name, self.open = name, set()

    async def listen(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        return self.server.sockets[0].getsockname()[1]

    async def serve(self, reader, writer):
        self.open.add(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                told = [value(head, name) for name in (b"gradual-version-id", b"gradual-version-tag")]
                body = " ".join([self.name, *told]).encode()
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open.discard(writer)
            writer.close()

    def close_connections(self):
        for writer in list(self.open):
            writer.close()


def value(head, name):
    """A header's value."""
    found = re.search(rb"\r\n" + name + rb": *([^\r]*)", head, re.IGNORECASE)
    return found[1].decode() if found else ""


async def ask(reader, writer, path="/"):
    """A request: its answer's status, head and body."""
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
    body = await asyncio.wait_for(reader.readexactly(int(value(head, b"content-length"))), PATIENCE)
    return int(head.split(b" ", 2)[1]), head, body.decode()


class Load:
    """Clients that ask as fast as they are answered; half of them on a new connection each time."""

    def __init__(self, port, count):
        self.port, self.count = port, count
        self.took, self.failed, self.mixed = [], [], []

    async def during(self, work):
        """Load while something else goes on; the 99th percentile of what it took, in milliseconds."""
        self.took, self.over = [], False
        clients = [asyncio.create_task(self.client(number % 2 == 0)) for number in range(self.count)]
        await work
        self.over = True
        await asyncio.gather(*clients)
        return sorted(self.took)[len(self.took) * 99 // 100] * 1000

    async def client(self, keeps):
        connection = None
        while not self.over:
            began = time.monotonic()
            try:
                connection = connection or await asyncio.open_connection("127.0.0.1", self.port)
                self.judge(*await ask(*connection))
                self.took.append(time.monotonic() - began)
            except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.TimeoutError) as error:
                self.failed.append(repr(error))
                keeps_now = False
            else:
                keeps_now = keeps
            if not keeps_now and connection:
                connection[1].close()
                connection = None
        if connection:
            connection[1].close()

    def judge(self, status, head, body):
        if status != 200:
            self.failed.append(f"{status} {body!r}")
            return
        name = body[0]
        exposed = value(head, b"gradual-version")
        right = f'"version-{name}";worker=storm;tag="tag-{name}"'
        if body != f"{name} version-{name} tag-{name}" or not exposed.startswith(right):
            self.mixed.append((body, exposed))


class Program:
    """The program under test."""

    def __init__(self, folder, ports):
        self.file, self.ports = folder / "storm.toml", ports
        self.file.write_text(text(ports, "a"))
        with open(folder / "storm.out", "wb") as out:
            words = [os.environ.get("GRADUAL", "target/release/gradual"), "run", str(self.file)]
            self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    async def metrics(self):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.ports["admin"])
        _, _, page = await ask(reader, writer, "/metrics")
        writer.close()
        return {name: int(number) for name, number in re.findall(r"^(gradual_(?:reloads|config)\S*) (\d+)$", page, re.M)}

    async def count(self):
        """How many reloads there were, and the generation."""
        numbers = await self.metrics()
        reloads = sum(number for name, number in numbers.items() if name.startswith("gradual_reloads_total"))
        return reloads, numbers["gradual_config_generation"]

    async def until(self, question, what):
        deadline = time.monotonic() + PATIENCE
        while True:
            if self.process.poll() is not None:
                sys.exit(f"the program has ended with {self.process.returncode}")
            try:
                if await question():
                    return
            except (OSError, KeyError, asyncio.IncompleteReadError):
                pass
            if time.monotonic() > deadline:
                sys.exit(f"never: {what}")
            await asyncio.sleep(0.002)

    async def reload(self, content, is_good):
        """Writes a file, sends SIGHUP, and waits for what comes of it."""
        reloads, generation = await self.count()
        self.file.write_text(content)
        self.process.send_signal(signal.SIGHUP)

        async def is_done():
            return await self.count() == (reloads + 1, generation + (1 if is_good else 0))

        await self.until(is_done, f"a reload is counted, and {'' if is_good else 'not '}taken")

    async def at_rest(self, upstreams):
        """Resident memory in KiB, descriptors and threads, once nothing is connected to it any more."""
        least = None
        for upstream in upstreams:
            upstream.close_connections()
        # Idle connections are looked through every few seconds.
        for _ in range(14):
            await asyncio.sleep(0.5)
            proc = Path(f"/proc/{self.process.pid}")
            status = (proc / "status").read_text()
            seen = [int(re.search(rf"{name}:\s+(\d+)", status)[1]) for name in ("VmRSS", "Threads")]
            seen.insert(1, len(os.listdir(proc / "fd")))
            least = [min(pair) for pair in zip(least, seen)] if least else seen
        return least


async def storm(program, ports, count):
    sequence = files(ports)
    for number in range(count):
        content, good = sequence[number % len(sequence)]
        await program.reload(content, good is not None)
    # So that what is at rest is the same as before.
    await program.reload(text(ports, "a"), True)


async def play(options, folder):
    upstreams = [Upstream("a"), Upstream("b")]
    ports = {upstream.name: await upstream.listen() for upstream in upstreams}
    free = [await asyncio.start_server(lambda *_: None, "127.0.0.1", 0) for _ in range(2)]
    for name, server in zip(("front", "admin"), free):
        ports[name] = server.sockets[0].getsockname()[1]
        server.close()
    program = Program(folder, ports)
    try:
        await program.until(program.count, "the program is ready")
        load = Load(ports["front"], options.clients)
        quiet = await load.during(asyncio.sleep(2))
        # The first reloads fill what is kept: buffers, series of metrics, pages of the allocator.
        await load.during(storm(program, ports, max(options.count // 5, 24)))
        before = await program.at_rest(upstreams)
        stormy = await load.during(storm(program, ports, options.count))
        after = await program.at_rest(upstreams)
    finally:
        program.process.terminate()
        code = program.process.wait(PATIENCE)
    return load, quiet, stormy, before, after, code


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000, help="how many reloads (default: %(default)s)")
    parser.add_argument("--clients", type=int, default=16, help="how many clients ask at once (default: %(default)s)")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="gradual-storm-") as folder:
        load, quiet, stormy, before, after, code = asyncio.run(play(options, Path(folder)))
    for problem in [*load.failed[:5], *load.mixed[:5]]:
        print(problem)
    grown = (after[0] - before[0]) / before[0] * 100
    print(f"{options.count} reloads, {len(load.took)} requests: {len(load.failed)} failed, {len(load.mixed)} mixed; "
          f"memory {before[0]} -> {after[0]} KiB ({grown:+.1f} %), descriptors {before[1]} -> {after[1]}, "
          f"threads {before[2]} -> {after[2]}; 99 % within {stormy:.1f} ms (without reloads {quiet:.1f}); "
          f"exit code {code}; {time.monotonic() - began:.0f} s")
    held = not load.failed and not load.mixed and grown < GROWTH and after[1:] == before[1:] and code == 0
    sys.exit(0 if held and load.took else 1)


if __name__ == "__main__":
    main()
