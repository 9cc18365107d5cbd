"""The proxy is told to end while requests over HTTP/1.1 and HTTP/2, an upload and tunnels are under way."""

import http.client
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor

from frames import DATA, END_STREAM, HEADERS, Http2, is_200
from proxies import Job, start_all

TITLE = "Graceful shutdown"
PROXIES = ("gradual", "nginx", "haproxy")
KEY = {"Host": "site.test", "Cloudflare-Workers-Version-Key": "somebody"}
REQUESTS, STREAMS, UPLOADS, TUNNELS = 10, 10, 3, 3
# How long what must end whole takes, and when the signal comes, in seconds.
TAKES, SIGNAL_AT = 1.5, 0.5


def play(stage, report):
    versions = {"v1": [stage.backend("first", "v1")], "v2": [stage.backend("second", "v2")]}
    proxies = start_all(stage, Job(versions, health=False, response=10, grace=stage.pick(3, 5)))
    with ThreadPoolExecutor(100) as pool:
        for name, under_way in {proxy.name: clients(pool, proxy) for proxy in proxies}.items():
            whole, total = wait_for(under_way)
            report.add(name, "whole without the fault", f"{whole} of {total}", "all", whole == total)
        running = {proxy.name: clients(pool, proxy) for proxy in proxies}
        # A tunnel that nobody ends: the grace does.
        held = [open_tunnel(proxy.port) for proxy in proxies]
        time.sleep(SIGNAL_AT)
        for proxy in proxies:
            proxy.process.send_signal(getattr(signal, proxy.kind.finish))
        told = time.monotonic()
        exits = {}
        while len(exits) < len(proxies) and time.monotonic() < told + 20:
            for proxy in proxies:
                if proxy.name not in exits and proxy.process.poll() is not None:
                    exits[proxy.name] = time.monotonic() - told
            time.sleep(0.01)
        for proxy in proxies:
            judge(report, proxy, wait_for(running[proxy.name]), exits.get(proxy.name))
        for tunnel in held:
            tunnel.close()


def judge(report, proxy, ended, exit_after):
    whole, total = ended
    report.add(proxy.name, "cut", f"{total - whole} of {total}", "0", whole == total)
    grace = proxy.job.grace
    report.add(proxy.name, f"time to the end, one tunnel never ending (grace {grace:.0f} s)",
               f"{exit_after:.1f} s" if exit_after else "not in 20 s", f"{grace + 1:.0f} s",
               exit_after and exit_after <= grace + 1)
    report.add(proxy.name, "exit code", proxy.process.returncode, "0", proxy.process.returncode == 0, gate=False)


def clients(pool, proxy):
    """All that is under way; each says how many of its parts ended whole, and how many there were."""
    under_way = [pool.submit(request, proxy.port) for _ in range(REQUESTS)]
    under_way += [pool.submit(upload, proxy.port) for _ in range(UPLOADS)]
    under_way += [pool.submit(tunnel, proxy.port) for _ in range(TUNNELS)]
    under_way.append(pool.submit(streams, proxy.h2_port))
    return under_way


def wait_for(under_way):
    parts = [each.result() for each in under_way]
    return sum(whole for whole, _ in parts), sum(total for _, total in parts)


def request(port):
    """A request that is answered slowly."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", f"/delay/{TAKES}", headers=KEY)
        response = connection.getresponse()
        return int(response.status == 200 and len(response.read()) == 512), 1
    except (OSError, http.client.HTTPException):
        return 0, 1
    finally:
        connection.close()


def upload(port):
    """A body in many small pieces."""
    def pieces():
        for _ in range(30):
            time.sleep(TAKES / 30)
            yield b"x" * 1000

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("POST", "/", body=pieces(), headers=KEY | {"Content-Length": "30000"})
        response = connection.getresponse()
        return int(response.status == 200 and len(response.read()) == 512), 1
    except (OSError, http.client.HTTPException):
        return 0, 1
    finally:
        connection.close()


def streams(port):
    """Requests on one HTTP/2 connection."""
    numbers, lengths, whole = range(1, 2 * STREAMS, 2), {}, set()
    try:
        client = Http2(port)
        for number in numbers:
            client.get(number, f"/delay/{TAKES}", {":authority": "site.test", "cloudflare-workers-version-key": "somebody"})
        for kind, flags, stream, payload in client.frames():
            if kind == HEADERS and is_200(payload):
                lengths[stream] = 0
            elif kind == DATA and stream in lengths:
                lengths[stream] += len(payload)
                if flags & END_STREAM and lengths[stream] == 512:
                    whole.add(stream)
            if len(whole) == STREAMS:
                client.close()
                break
    except OSError:
        # What is not whole by then is cut.
        pass
    return len(whole), STREAMS


def open_tunnel(port):
    tunnel = socket.create_connection(("127.0.0.1", port), 20)
    head = "".join(f"{name}: {value}\r\n" for name, value in (KEY | {
        "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}).items())
    tunnel.sendall(f"GET /chat HTTP/1.1\r\n{head}\r\n".encode())
    received = b""
    while b"\r\n\r\n" not in received:
        piece = tunnel.recv(4096)
        if not piece:
            raise ConnectionError("the tunnel was not opened")
        received += piece
    if b" 101 " not in received:
        raise ConnectionError("the tunnel was refused")
    return tunnel


def tunnel(port):
    """Bytes to and fro; the client ends it."""
    try:
        with open_tunnel(port) as connection:
            for _ in range(15):
                connection.sendall(b"ping")
                if connection.recv(4, socket.MSG_WAITALL) != b"ping":
                    return 0, 1
                time.sleep(TAKES / 15)
            return 1, 1
    except OSError:
        return 0, 1
