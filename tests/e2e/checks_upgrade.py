"""Binary upgrades under load, and as process 1 of a container."""

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

from checks_life import Site
from harness import GRADUAL, Skipped, check, eventually, expect, expect_equal, free_ports

sys.path.append(str(Path(__file__).resolve().parents[1] / "faults"))
import http2

UPGRADES = 20
REQUEST = b"GET / HTTP/1.1\r\nHost: site.test\r\nConnection: close\r\n\r\n"


class TlsSite(Site):
    """A site that is served over TLS, too."""

    def __init__(self, *arguments):
        self.tls, = free_ports(1)
        super().__init__(*arguments)

    def text(self, canary):
        pair = f'certificate = "{self.world.folder}/cert.pem", key = "{self.world.folder}/key.pem"'
        return f'[[listener]]\naddress = "127.0.0.1:{self.tls}"\ntls = [{{ {pair} }}]\n' + super().text(canary)


def pid(site):
    """The process that answers on the admin address; None while none does."""
    try:
        return json.loads(site.program.ask("GET", "/api/v1/status")[1])["pid"]
    except OSError:
        return None


def alive(number):
    """Whether a process runs. One that has ended, and that nobody has asked after, does not."""
    try:
        with open(f"/proc/{number}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class NewConnections:
    """Threads of clients that make a connection for every request, and write down everything that is not a whole 200."""

    def __init__(self, port):
        self.port, self.stopped, self.count, self.failures = port, False, [0] * 4, []
        self.threads = [threading.Thread(target=self.ask, args=(number,)) for number in range(4)]
        for thread in self.threads:
            thread.start()

    def ask(self, number):
        while not self.stopped:
            try:
                with contextlib.closing(socket.create_connection(("127.0.0.1", self.port), 10)) as client:
                    client.sendall(REQUEST)
                    answer = b"".join(iter(lambda: client.recv(65536), b""))
                if not (answer.startswith(b"HTTP/1.1 200 ") and answer.endswith((b"v1\n", b"v2\n"))):
                    self.failures.append(answer)
            except OSError as error:
                self.failures.append(repr(error))
            self.count[number] += 1

    def goes_on(self):
        before = sum(self.count)
        eventually(lambda: sum(self.count) > before + 20, "the load goes on")

    def stop(self):
        self.stopped = True
        for thread in self.threads:
            thread.join(20)


class LongConnections:
    """Clients of HTTP/2 with TLS that share a few connections; they repeat what GOAWAY allows, and nothing else."""

    def __init__(self, site):
        self.client = http2.Client(site.tls, "localhost", http2.trusting(site.world.folder / "ca.pem"))
        self.stopped, self.count, self.failures = False, 0, []
        self.thread = threading.Thread(target=lambda: asyncio.run(self.ask_all()))
        self.thread.start()

    async def ask_all(self):
        await asyncio.gather(*(self.ask() for _ in range(8)))
        self.client.close()

    async def ask(self):
        while not self.stopped:
            try:
                async with asyncio.timeout(10):
                    answer = await self.client.get("/", {})
                if answer not in ((200, b"v1\n"), (200, b"v2\n")):
                    self.failures.append(answer)
            except Exception as error:
                # Whatever it is: a client that is gone would find no failure any more.
                self.failures.append(repr(error))
            self.count += 1

    def stop(self):
        self.stopped = True
        self.thread.join(20)


class Wrk:
    """wrk until it is stopped."""

    def __init__(self, world, site, name, *words):
        self.world, self.out = world, world.folder / f"upgrade.{name}"
        command = ["wrk", "-t1", "-c8", "-d60s", "--timeout", "10s", *words, f"http://127.0.0.1:{site.port}/"]
        self.process = world.processes.start(command, self.out)

    def stop(self):
        """How many requests there were; the check fails if any failed."""
        self.world.processes.end(self.process, signal.SIGINT)
        said = self.out.read_text()
        expect("Socket errors" not in said and "Non-2xx" not in said, said)
        return int(re.search(r"(\d+) requests in", said)[1])


@check
def twenty_upgrades_under_load_refuse_no_connection_and_fail_no_request(world):
    site = TlsSite(world, "upgrade", world.nginx[2:])
    old, gone = pid(site), []
    wrk = [Wrk(world, site, "new", "-H", "Connection: close"), Wrk(world, site, "kept")]
    load, long = NewConnections(site.port), LongConnections(site)
    try:
        for number in range(UPGRADES):
            load.goes_on()
            if number % 2:
                done = subprocess.run([GRADUAL, "upgrade", site.program.file], capture_output=True, text=True)
                expect_equal(done.returncode, 0, done.stderr + site.program.said())
            else:
                os.kill(old, signal.SIGUSR2)
            # From then on only the new process accepts on the admin address.
            eventually(lambda: site.program.out.read_text().count("upgraded (") > number, "it says so")
            gone.append(old)
            old = pid(site)
            expect(old not in gone, (old, gone))
        load.goes_on()
        wrk = [each.stop() for each in wrk]
    finally:
        load.stop()
        long.stop()
        eventually(lambda: not any(alive(number) for number in gone), f"the old processes end: {gone}")
        total = site.program.metric("gradual_upgrades_total", result="success")
        os.kill(old, signal.SIGTERM)
    eventually(lambda: not alive(old), "the last process ends")
    expect_equal((load.failures, long.failures), ([], []))
    expect(long.client.made > len(long.client.slots), "no long connection was told to go elsewhere")
    expect_equal((total, len(set(gone)), site.program.process.wait(10)), (UPGRADES, UPGRADES, 0))
    print(f"       {UPGRADES} upgrades, {sum(load.count)} connections one by one; wrk, new and kept: {wrk}; "
          f"HTTP/2 with TLS: {long.count} over {long.client.made} connections, {long.client.repeated} sent again")


@check
def process_1_of_a_container_refuses_an_upgrade(world):
    unshare = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if not shutil.which("unshare") or subprocess.run([*unshare, "true"], capture_output=True).returncode:
        raise Skipped("this system gives no process id namespace")
    site = Site(world, "first", world.nginx[2:])
    world.processes.end(site.program.process)
    container = world.processes.start([*unshare, GRADUAL, "run", site.program.file], site.program.out)
    eventually(lambda: pid(site) == 1, "process 1 answers")
    done = subprocess.run([GRADUAL, "upgrade", site.program.file], capture_output=True, text=True)
    expect(done.returncode == 1 and "process 1 of its container" in done.stderr, done)
    expect_equal(pid(site), 1)
    world.processes.end(container, signal.SIGKILL)
