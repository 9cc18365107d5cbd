"""Clients that leave while their request is with the upstream: how long until the upstream is rid of it."""

import contextlib
import socket
import struct
import time
from pathlib import Path
from statistics import median

from frames import Http2
from proxies import Job, start_all
from stage import Broken, eventually

TITLE = "Client leaves"
PROXIES = ("gradual", "nginx", "haproxy")
FIELDS = {"cloudflare-workers-version-key": "somebody"}
# Nobody waits so long for an answer, and it is counted as this long where the upstream never learns of it.
NEVER = 5.0


def play(stage, report):
    versions = {"v1": [stage.backend("first", "v1")], "v2": [stage.backend("second", "v2")]}
    proxies = start_all(stage, Job(versions, health=False, response=30, abort=True))
    times, stalls = stage.pick(15, 100), stage.pick(5, 20)
    for proxy in proxies:
        for kind, (ask, leave) in KINDS.items():
            judge(report, proxy, f"{kind}, {times} times: the upstream sees it after: median, most",
                  lambda identity: once(stage, proxy, identity, ask, leave), times)
        judge(report, proxy, f"HTTP/1.1 resets, of its upload the upstream takes nothing, {stalls} times: "
              "the upstream's connection ends after: median, most",
              lambda identity: once_stalled(stage, proxy, identity), stalls)
        status = proxy.get()
        report.add(proxy.name, "another client after it", status, "200", status == 200)


def judge(report, proxy, title, measure, times):
    """Measure so often, but no more once the upstream never learned of it."""
    took = []
    while len(took) < times and NEVER not in took:
        took.append(measure(f"{proxy.name}-{len(took)}-{title.partition(':')[0].replace(' ', '-')}"))
    longest = f"never, at the {len(took)}. time" if NEVER in took else f"{max(took) * 1000:.1f} ms"
    report.add(proxy.name, title, f"{median(took) * 1000:.1f} ms, {longest}", "1 s", max(took) < 1)


def once(stage, proxy, identity, ask, leave):
    """The seconds from the moment at which a client leaves to that at which the upstream sees its connection end."""
    with stage.journal.open() as journal:
        journal.seek(0, 2)
        client = ask(proxy, identity)
        noted(journal, "R", identity, NEVER) or fail(proxy, identity)
        left = time.monotonic()
        leave(client)
        seen = noted(journal, "L", identity, NEVER)
        client.close()
        return min(float(seen[3]) - left, NEVER) if seen else NEVER


def once_stalled(stage, proxy, identity):
    """The same for a client whose upload nobody takes. What is on its way to an upstream that does not read hides the end from
    it, so the kernel is asked when the proxy closes its side."""
    ports = {backend.ports[proxy.name] for backend in stage.backends}
    eventually(lambda: not is_holding(ports), "uploads that nobody takes are over")
    with stage.journal.open() as journal:
        journal.seek(0, 2)
        client = upload(proxy, identity, f"/stall/{NEVER + 1}")
        noted(journal, "R", identity, NEVER) or fail(proxy, identity)
        fill(client)
        is_holding(ports) or fail(proxy, identity)
        left = time.monotonic()
        reset(client)
        while is_holding(ports) and time.monotonic() - left < NEVER:
            time.sleep(0.005)
        return min(time.monotonic() - left, NEVER)


def fill(client):
    """Send until nothing more has been taken for a while."""
    client.settimeout(0.3)
    with contextlib.suppress(TimeoutError):
        while True:
            client.send(bytes(1 << 16))


def is_holding(ports):
    """Whether some connection to these ports is established and has bytes on their way."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, _, remote, state, queues, *_ = line.split()
        if state == "01" and int(remote.rpartition(":")[2], 16) in ports and int(queues.partition(":")[0], 16) > 0:
            return True
    return False


def fail(proxy, identity):
    raise Broken(f"{proxy.name} does not pass on {identity}")


def noted(journal, letter, identity, patience):
    """The words of the line that the journal gets about a request; None: none came."""
    deadline, rest = time.monotonic() + patience, ""
    while time.monotonic() < deadline:
        rest += journal.read()
        *lines, rest = rest.split("\n")
        for line in lines:
            words = line.split(" ")
            if words[0] == letter and words[2] == identity:
                return words
        time.sleep(0.001)
    return None


def head(identity, target="/delay/20", method="GET", more=""):
    fields = "".join(f"{name}: {value}\r\n" for name, value in FIELDS.items())
    return f"{method} {target} HTTP/1.1\r\nHost: site.test\r\n{fields}{more}X-Identity: {identity}\r\n\r\n".encode()


def sent(proxy, what):
    client = socket.create_connection(("127.0.0.1", proxy.port), 10)
    client.sendall(what)
    return client


def http1(proxy, identity):
    return sent(proxy, head(identity))


def pipelined(proxy, identity):
    return sent(proxy, head(identity) + head(f"{identity}-behind"))


def upload(proxy, identity, target="/sink"):
    return sent(proxy, head(identity, target, "PUT", "Content-Length: 1000000000\r\n") + bytes(1 << 16))


def download(proxy, identity):
    client = sent(proxy, head(identity, "/big/1000000000"))
    client.recv(1 << 16)
    return client


def reset(client):
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def http2(proxy, identity):
    client = Http2(proxy.h2_port)
    client.get(1, "/delay/20", {":authority": "site.test"} | FIELDS | {"x-identity": identity})
    return client


KINDS = {
    "HTTP/1.1 closes": (http1, socket.socket.close),
    "HTTP/1.1 resets": (http1, reset),
    "HTTP/1.1 closes, a pipelined request unread": (pipelined, socket.socket.close),
    "HTTP/1.1 closes in the middle of an upload": (upload, socket.socket.close),
    "HTTP/1.1 closes in the middle of a download": (download, socket.socket.close),
    "HTTP/2 resets the stream": (http2, lambda client: client.cancel(1)),
    "HTTP/2 closes": (http2, Http2.close),
}
