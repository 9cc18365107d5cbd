"""Clients that have had an answer and keep their connections, of each protocol."""

import socket
import ssl
import time

from frames import DATA, END_STREAM, HEADERS, Http2, is_200
from proxies import Job, start_all
from stage import Broken, memory

TITLE = "Memory, idle clients"
PROXIES = ("gradual", "nginx", "haproxy")
SIZE = 1024
REQUEST = b"GET / HTTP/1.1\r\nHost: site.test\r\nX-Size: %d\r\nCloudflare-Workers-Version-Key: visitor %d\r\n\r\n"


def play(stage, report):
    versions = {"v1": [stage.backend("first", "v1")], "v2": [stage.backend("second", "v2")]}
    job = Job(versions, health=False, certificate=stage.certificate())
    for kind, connect in KINDS.items():
        # Processes of its own for each kind: what one leaves behind would be used by the next.
        one_kind(stage, report, start_all(stage, job), kind, connect)


def one_kind(stage, report, proxies, kind, connect):
    count, empty, grown = stage.pick(200, 2000), {}, {}
    for proxy in proxies:
        name = proxy.name
        leave(crowd(proxy, connect, 8))
        time.sleep(0.3)
        empty[name] = memory(proxy.process.pid)
        clients = crowd(proxy, connect, count)
        time.sleep(stage.pick(0.7, 1.5))
        grown[name] = memory(proxy.process.pid) - empty[name]
        if closed := sum(has_ended(client) for client in clients):
            raise Broken(f"{name} has closed {closed} of {count} idle connections: {kind}")
        leave(clients)
    time.sleep(stage.pick(1, 5))
    # An allocator gives memory back when it is at work: some other requests, as there always are.
    for _ in range(2):
        for proxy in proxies:
            leave(crowd(proxy, connect, 100))
        time.sleep(0.5)
    for proxy in proxies:
        name, left = proxy.name, memory(proxy.process.pid) - empty[proxy.name]
        report.add(name, f"{kind}: memory before", f"{empty[name] / 1024:.1f} MiB")
        report.add(name, f"{kind}: each of {count:,}", f"{grown[name] / count:.1f} KiB", "20 KiB", grown[name] / count <= 20,
                   gate=kind.startswith("HTTP/1.1"))
        report.add(name, f"{kind}: still held after they left, and 200 other requests", f"{max(0, left) / 1024:.1f} MiB",
                   "5 MiB", left <= 5 * 1024, gate=False)
        stage.end(proxy.process)


def crowd(proxy, connect, count):
    """The sockets of so many clients, each of which has had its answer."""
    return [connect(proxy, number) for number in range(count)]


def leave(clients):
    for client in clients:
        client.close()


def has_ended(client):
    """Whether the other side has closed the connection."""
    with socket.socket(fileno=client.fileno()) as plain:
        try:
            plain.setblocking(False)
            return plain.recv(1, socket.MSG_PEEK) == b""
        except BlockingIOError:
            return False
        finally:
            plain.detach()


def http1(port, number, tls=None):
    client = socket.create_connection(("127.0.0.1", port), 5)
    if tls:
        client = tls.wrap_socket(client)
    client.sendall(REQUEST % (SIZE, number))
    received = b""
    while b"\r\n\r\n" not in received or len(received.partition(b"\r\n\r\n")[2]) < SIZE:
        piece = client.recv(65536)
        if not piece:
            raise Broken(f"an idle client was not answered: {received[:200]!r}")
        received += piece
    return client


def http2(port, number, tls=None):
    client, found, length = Http2(port, tls=tls), False, 0
    fields = {":authority": "site.test", "x-size": str(SIZE), "cloudflare-workers-version-key": f"visitor {number}"}
    client.get(1, "/", fields)
    for kind, flags, _, payload in client.frames():
        found |= kind == HEADERS and is_200(payload)
        length += len(payload) if kind == DATA else 0
        if kind == DATA and flags & END_STREAM:
            break
    if not found or length != SIZE:
        raise Broken(f"an idle client was not answered: {length} bytes over HTTP/2")
    return client.socket


def trusting(protocol):
    """A client's side of TLS that speaks one protocol inside of it, and takes any certificate."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols([protocol])
    return context


TLS = {protocol: trusting(protocol) for protocol in ("http/1.1", "h2")}
KINDS = {
    "HTTP/1.1": lambda proxy, number: http1(proxy.port, number),
    "HTTP/1.1 over TLS": lambda proxy, number: http1(proxy.tls_port, number, TLS["http/1.1"]),
    "HTTP/2 without TLS": lambda proxy, number: http2(proxy.h2_port, number),
    "HTTP/2 over TLS": lambda proxy, number: http2(proxy.tls_port, number, TLS["h2"]),
}
