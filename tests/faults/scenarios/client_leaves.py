"""Clients that leave while their request is with the upstream: how long until the upstream is rid of it."""

import socket
import struct
import time
from statistics import median

from frames import Http2
from proxies import Job, start_all
from stage import Broken

TITLE = "Client leaves"
PROXIES = ("gradual", "nginx", "haproxy")
FIELDS = {"cloudflare-workers-version-key": "somebody"}
# Nobody waits so long for an answer, and it is counted as this long where the upstream never learns of it.
NEVER = 5.0


def play(stage, report):
    versions = {"v1": [stage.backend("first", "v1")], "v2": [stage.backend("second", "v2")]}
    proxies = start_all(stage, Job(versions, health=False, response=30, abort=True))
    times = stage.pick(15, 100)
    for proxy in proxies:
        for kind, (ask, leave) in KINDS.items():
            took = [once(stage, proxy, f"{proxy.name}-{number}-{kind.replace(' ', '-')}", ask, leave)
                    for number in range(times)]
            never = sum(each >= NEVER for each in took)
            longest = f"never, {never} times" if never else f"{max(took) * 1000:.1f} ms"
            report.add(proxy.name, f"{kind}, {times} times: the upstream sees it after: median, most",
                       f"{median(took) * 1000:.1f} ms, {longest}", "1 s", max(took) < 1)
        status = proxy.get()
        report.add(proxy.name, "another client after it", status, "200", status == 200)


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


def http1(proxy, identity):
    client = socket.create_connection(("127.0.0.1", proxy.port), 10)
    fields = "".join(f"{name}: {value}\r\n" for name, value in FIELDS.items())
    client.sendall(f"GET /delay/20 HTTP/1.1\r\nHost: site.test\r\n{fields}X-Identity: {identity}\r\n\r\n".encode())
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
    "HTTP/2 resets the stream": (http2, lambda client: client.cancel(1)),
    "HTTP/2 closes": (http2, Http2.close),
}
