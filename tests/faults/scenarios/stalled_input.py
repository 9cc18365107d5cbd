"""Clients that stop in the middle of what they send: none of it may make the proxy spin."""

import socket
import time

from proxies import Job, start_all
from stage import cpu_seconds

TITLE = "Input that stops half way"
PROXIES = ("gradual", "nginx", "haproxy")
POST = b"POST / HTTP/1.1\r\nHost: site.test\r\nTransfer-Encoding: chunked\r\n\r\n"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\4\0\0\0\0\0"
INPUTS = {
    "nothing": b"",
    "half a request line": b"GET / HT",
    "half a head": b"GET / HTTP/1.1\r\nHost: site.test\r\nX-A: ",
    "half a preface": PREFACE[:10],
    "half a PING": PREFACE + b"\0\0\x08\x06\0\0\0\0\0abcd",
    "half a frame's head": PREFACE + b"\0\0\x08\x06",
    "half a SETTINGS": PREFACE[:-9] + b"\0\0\x0c\4\0\0\0\0\0\0\3",
    "HEADERS that never end": PREFACE + b"\0\0\1\1\0\0\0\0\1\x82",
    "half a chunk size": POST + b"5",
    "a long chunk size": POST + b"0" * 15,
    "half a chunk": POST + b"5\r\nhe",
    "half a trailer": POST + b"5\r\nhello\r\n0\r\nX-A: b",
    "half a body": b"POST / HTTP/1.1\r\nHost: site.test\r\nContent-Length: 100\r\n\r\nhalf",
}


def play(stage, report):
    versions = {"v1": [stage.backend("first", "v1")], "v2": [stage.backend("second", "v2")]}
    proxies = start_all(stage, Job(versions, health=False, response=30))
    seconds, copies = 2, 4
    for proxy in proxies:
        proxy.get()
    idle, _ = spent(proxies, seconds, list)
    used, clients = spent(proxies, seconds, lambda: [
        stalled(proxy, data) for proxy in proxies for data in INPUTS.values() for _ in range(copies)])
    for proxy in proxies:
        name = proxy.name
        report.add(name, f"CPU in {seconds} s without them", f"{idle[name] * 1000:.1f} ms")
        report.add(name, f"CPU in {seconds} s, {copies} of each of {len(INPUTS)} kinds", f"{used[name] * 1000:.1f} ms",
                   "100 ms", used[name] < 0.1)
        status = proxy.get()
        report.add(name, "another client meanwhile", status, "200", status == 200)
    for client in clients:
        client.close()


def spent(proxies, seconds, begin):
    """The time on a core that each proxy uses in so many seconds from a beginning, and what has begun."""
    before = {proxy.name: cpu_seconds(proxy.process.pid) for proxy in proxies}
    begun = begin()
    time.sleep(seconds)
    return {proxy.name: cpu_seconds(proxy.process.pid) - before[proxy.name] for proxy in proxies}, begun


def stalled(proxy, data):
    client = socket.create_connection(("127.0.0.1", proxy.h2_port if data.startswith(b"PRI") else proxy.port), 5)
    client.sendall(data)
    return client
