"""Clients that ask for fifty megabytes and read nothing of them."""

import socket
import time

from proxies import Job, Proxy
from stage import kernel_memory, memory

TITLE = "Memory, clients that do not read"
PROXIES = ("gradual", "nginx", "haproxy")
REQUEST = b"GET /big/52428800 HTTP/1.1\r\nHost: site.test\r\nCloudflare-Workers-Version-Key: visitor %d\r\n\r\n"


def play(stage, report):
    versions = {"v1": [stage.backend("first", "v1")], "v2": [stage.backend("second", "v2")]}
    job = Job(versions, health=False, response=30)
    count = stage.pick(50, 200)
    # One after another: what the kernel holds is known for the whole machine only.
    for name in stage.proxies:
        proxy = Proxy(stage, name, job)
        proxy.get()
        empty, kernel = memory(proxy.process.pid), kernel_memory()
        clients = [non_reader(proxy.port, number) for number in range(count)]
        time.sleep(stage.pick(1, 4))
        grown, held = memory(proxy.process.pid) - empty, max(0, kernel_memory() - kernel)
        status = proxy.get()
        for client in clients:
            client.close()
        report.add(name, f"each of {count}", f"{grown / count:.0f} KiB", "256 KiB", grown / count <= 256)
        report.add(name, "each in the kernel's TCP buffers, both sides and the backend's", f"{held / count:,.0f} KiB")
        report.add(name, "another client meanwhile", status, "200", status == 200)
        time.sleep(stage.pick(1, 5))
        # An allocator gives memory back when it is at work: some other requests, as there always are.
        for _ in range(2):
            for _ in range(100):
                proxy.get()
            time.sleep(0.5)
        report.add(name, "still held after they left, and 200 other requests",
                   f"{max(0, memory(proxy.process.pid) - empty) / 1024:.1f} MiB")
        stage.end(proxy.process)


def non_reader(port, number):
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", port))
    client.sendall(REQUEST % number)
    return client
