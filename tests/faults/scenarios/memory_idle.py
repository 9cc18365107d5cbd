"""Clients that have had an answer and keep their connections."""

import socket
import time

from proxies import Job, start_all
from stage import Broken, memory

TITLE = "Memory, idle clients"
PROXIES = ("gradual", "nginx", "haproxy")
REQUEST = b"GET / HTTP/1.1\r\nHost: site.test\r\nX-Size: 1024\r\nCloudflare-Workers-Version-Key: visitor %d\r\n\r\n"


def play(stage, report):
    versions = {"v1": [stage.backend("first", "v1")], "v2": [stage.backend("second", "v2")]}
    proxies = start_all(stage, Job(versions, health=False))
    count = stage.pick(400, 2000)
    for proxy in proxies:
        leave(crowd(proxy, 8))
    time.sleep(0.5)
    empty = {proxy.name: memory(proxy.process.pid) for proxy in proxies}
    clients = {proxy.name: crowd(proxy, count) for proxy in proxies}
    time.sleep(1.5)
    full = {proxy.name: memory(proxy.process.pid) for proxy in proxies}
    for name in clients:
        leave(clients[name])
    time.sleep(stage.pick(1, 5))
    # An allocator gives memory back when it is at work: some other requests, as there always are.
    for _ in range(2):
        for proxy in proxies:
            leave(crowd(proxy, 100))
        time.sleep(0.5)
    for proxy in proxies:
        name = proxy.name
        grown, left = full[name] - empty[name], memory(proxy.process.pid) - empty[name]
        report.add(name, "memory before", f"{empty[name] / 1024:.1f} MiB")
        report.add(name, f"each of {count:,}", f"{grown / count:.1f} KiB", "20 KiB", grown / count <= 20)
        report.add(name, "still held after they left, and 200 other requests", f"{max(0, left) / 1024:.1f} MiB", "5 MiB",
                   left <= 5 * 1024, gate=False)


def leave(clients):
    for client in clients:
        client.close()


def crowd(proxy, count):
    clients = []
    for number in range(count):
        client = socket.create_connection(("127.0.0.1", proxy.port), 5)
        client.sendall(REQUEST % number)
        read_answer(client)
        clients.append(client)
    return clients


def read_answer(client):
    received = b""
    while b"\r\n\r\n" not in received or len(received.partition(b"\r\n\r\n")[2]) < 1024:
        piece = client.recv(65536)
        if not piece:
            raise Broken(f"an idle client was not answered: {received[:200]!r}")
        received += piece
