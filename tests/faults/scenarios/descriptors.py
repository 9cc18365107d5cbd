"""A proxy that may open 256 files meets 400 clients that stay."""

import contextlib
import socket
import time
from collections import Counter

from proxies import Job, start_all
from stage import cpu_seconds

TITLE = "Descriptors exhausted"
PROXIES = ("gradual", "nginx", "haproxy")
REQUEST = b"GET / HTTP/1.1\r\nHost: site.test\r\nCloudflare-Workers-Version-Key: somebody\r\n\r\n"


def play(stage, report):
    versions = {"v1": [stage.backend("first", "v1")], "v2": [stage.backend("second", "v2")]}
    # For nginx and HAProxy, too, the limit holds for each process; nginx has two that serve.
    proxies = start_all(stage, Job(versions, health=False, prefix=("prlimit", "--nofile=256:256")))
    for proxy in proxies:
        answers = [proxy.get() for _ in range(20)]
        report.add(proxy.name, "without the fault", f"{answers.count(200)} of 20 answered", "all", answers.count(200) == 20)
    clients = {proxy.name: crowd(proxy.port, 400) for proxy in proxies}
    time.sleep(1)
    used, seconds = {proxy.name: cpu_seconds(proxy.process.pid) for proxy in proxies}, stage.pick(2, 5)
    time.sleep(seconds)
    for proxy in proxies:
        share = (cpu_seconds(proxy.process.pid) - used[proxy.name]) / seconds
        report.add(proxy.name, "CPU at the limit", f"{share:.1%} of a core", "10 %", share < 0.1)
        report.add(proxy.name, "the 400 clients at the limit", answered(clients[proxy.name]))
        if proxy.name == "gradual":
            status = admin(proxy)
            report.add("gradual", "admin address at the limit", status, "reachable", status == "reachable")
    for proxy in proxies:
        for client in clients[proxy.name]:
            client.close()
        released = time.monotonic()
        while (status := proxy.get(timeout=1)) != 200 and time.monotonic() < released + 20:
            time.sleep(0.02)
        took = time.monotonic() - released
        report.add(proxy.name, "served again after the release", f"{took * 1000:.0f} ms" if status == 200 else "not in 20 s",
                   "1,000 ms", status == 200 and took < 1, gate=stage.options.full)
        alive = proxy.process.poll() is None
        report.add(proxy.name, "alive", "yes" if alive else f"exit code {proxy.process.returncode}", "yes", alive)


def crowd(port, count):
    """Clients that connect, send a request where they are let in, and stay."""
    clients = []
    for _ in range(count):
        client = socket.socket()
        client.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            client.connect(("127.0.0.1", port))
        clients.append(client)
    time.sleep(0.3)
    for client in clients:
        with contextlib.suppress(OSError):
            client.send(REQUEST)
    return clients


def answered(clients):
    """What the clients have got so far."""
    counts = Counter()
    for client in clients:
        try:
            data = client.recv(4096, socket.MSG_PEEK)
            counts[data[9:12].decode() if data.startswith(b"HTTP/1.1 ") else "closed"] += 1
        except BlockingIOError:
            counts["no answer"] += 1
        except OSError:
            counts["closed"] += 1
    return ", ".join(f"{count} {what}" for what, count in counts.most_common())


def admin(proxy):
    try:
        return "reachable" if proxy.ask("/metrics", timeout=3)[0] == 200 else "answers, but not with 200"
    except OSError as error:
        return f"not reachable: {error}"
