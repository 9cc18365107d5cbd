"""Clients that have had an answer and keep their connections."""

import socket
import time

from proxies import Job, Proxy
from stage import Broken, kernel_memory, memory

TITLE = "Memory, idle clients"
PROXIES = ("gradual", "nginx", "haproxy")
REQUEST = b"GET / HTTP/1.1\r\nHost: site.test\r\nX-Size: 1024\r\nCloudflare-Workers-Version-Key: visitor %d\r\n\r\n"


def play(stage, report):
    versions = {"v1": [stage.backend("first", "v1")], "v2": [stage.backend("second", "v2")]}
    job = Job(versions, health=False)
    count = stage.pick(400, 2000)
    # One after another: what the kernel holds is known for the whole machine only.
    for name in stage.proxies:
        proxy = Proxy(stage, name, job)
        for client in crowd(proxy, 8):
            client.close()
        time.sleep(0.5)
        empty, kernel = memory(proxy.process.pid), kernel_memory()
        clients = crowd(proxy, count)
        time.sleep(1.5)
        grown, held = memory(proxy.process.pid) - empty, max(0, kernel_memory() - kernel)
        for client in clients:
            client.close()
        report.add(name, "memory before", f"{empty / 1024:.1f} MiB")
        report.add(name, f"each of {count:,}", f"{grown / count:.1f} KiB", "20 KiB", grown / count <= 20)
        report.add(name, "each in the kernel's TCP buffers", f"{held / count:.1f} KiB")
        time.sleep(stage.pick(1, 5))
        left = memory(proxy.process.pid) - empty
        report.add(name, "still held after they left", f"{max(0, left) / 1024:.1f} MiB")
        stage.end(proxy.process)


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
