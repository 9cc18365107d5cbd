"""A backend that misbehaves as told: one process, so that it can be killed like one.

    backend.py NAME VERSION JOURNAL PORT...

It listens on one port for each proxy under test, so that what each proxy does is counted apart. Who started it holds the
ports bound (with SO_REUSEPORT, without listening), so that nobody else gets them while it is down.
Commands come as lines of JSON on its standard input, and each is answered with a line; it ends when its input does.

    {"mode": "up"}            answer (the default)
    {"mode": "hang"}          accept and read, never answer
    {"mode": "close"}         accept, then close at once, and reset what was open
    {"mode": "refuse"}        do not listen, and reset what was open
    {"mode": "full"}          listen, but with a backlog that is full: connections are never made
    {"delay": 0.02}           answer so many seconds after a request
    {"stale": [0, 0.004]}     close a connection, unannounced, so long after its last answer; null: keep it
    {"counts": true}          say what each port has seen

Of what is sent to `/sink`, all is read and nothing answered; of what is sent to `/stall/SECONDS`, nothing is read but its
head, and the connection is reset so much later.

The journal gets one line when a request has arrived whole (R), one when it is answered (A), and one when its connection ends
before that (L, with the moment), with the name. It survives the process,
so requests that were in flight when it was killed, and requests that were delivered twice, can be told.
"""

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import random
import socket
import sys
import time

# What RFC 6455 adds to a key.
MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
# The status for a request whose proxy says that it goes to another version.
MISDIRECTED = 421
FILLER = b"".join(b"%07d\n" % number for number in range(8192))


def body_of(identity, version, name, size):
    """The body that belongs to a request; who asked can tell whether it is whole and the right one."""
    head = f"{version} {name} {identity}\n".encode()
    return head + FILLER[: max(0, size - len(head))]


class Place:
    """One port, and what it has seen."""

    def __init__(self, port):
        self.port = port
        self.server, self.deaf, self.open = None, [], set()
        self.connections = self.requests = self.probes = 0

    def be_deaf(self):
        """Listen without accepting, and take what room the backlog has."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(0)
        self.deaf.append(listener)
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(("127.0.0.1", self.port))
            self.deaf.append(filler)


class Backend:
    """All places, and the mode that they share."""

    def __init__(self, name, version, journal, ports):
        self.name, self.version = name, version
        self.journal = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self.places = [Place(int(port)) for port in ports]
        self.mode, self.delay, self.stale = "up", 0.0, None
        self.tasks = set()

    def note(self, letter, identity):
        os.write(self.journal, f"{letter} {self.name} {identity}\n".encode())

    async def listen(self, place):
        place.server = await asyncio.get_running_loop().create_server(
            lambda: Connection(self, place), "127.0.0.1", place.port, backlog=1024, reuse_port=True)

    async def change(self, mode):
        self.mode = mode
        for place in self.places:
            for each in place.deaf:
                each.close()
            place.deaf = []
            if mode in ("refuse", "full") and place.server:
                place.server.close()
                place.server = None
            if mode in ("refuse", "close", "full"):
                for connection in list(place.open):
                    connection.transport.abort()
            if mode == "full":
                place.be_deaf()
            elif mode != "refuse" and place.server is None:
                await self.listen(place)

    async def obey(self, line):
        command = json.loads(line)
        self.delay = command.get("delay", self.delay)
        self.stale = command.get("stale", self.stale)
        if "mode" in command:
            await self.change(command["mode"])
        counts = [{"connections": place.connections, "requests": place.requests, "probes": place.probes,
                   "open": len(place.open)} for place in self.places]
        sys.stdout.write(json.dumps(counts) + "\n")
        sys.stdout.flush()

    def keep(self, coroutine):
        task = asyncio.ensure_future(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task


class Connection(asyncio.Protocol):
    """One connection of a proxy. One request at a time, as proxies send them."""

    def __init__(self, backend, place):
        self.backend, self.place = backend, place
        self.received, self.tunnel, self.closing = bytearray(), False, None
        # Whether what comes is of no interest.
        self.sinks = False
        # The request that is not answered yet.
        self.serving = None
        self.flows = asyncio.Event()
        self.flows.set()

    def connection_made(self, transport):
        self.transport = transport
        self.place.connections += 1
        if self.backend.mode == "close":
            transport.abort()
            return
        self.place.open.add(self)

    def connection_lost(self, _error):
        self.place.open.discard(self)
        self.flows.set()
        if self.serving:
            self.backend.note("L", f"{self.serving} {time.monotonic():.6f}")
        if self.closing:
            self.closing.cancel()

    def pause_writing(self):
        self.flows.clear()

    def resume_writing(self):
        self.flows.set()

    def data_received(self, data):
        if self.tunnel:
            self.transport.write(data)
            return
        if self.sinks:
            return
        self.received += data
        while request := self.next_request():
            if self.closing:
                self.closing.cancel()
            self.serve(*request)

    def next_request(self):
        """Method, target and header fields of a request that has arrived whole."""
        end = self.received.find(b"\r\n\r\n")
        if end < 0:
            return None
        first, *lines = self.received[:end].decode("latin-1").split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        start = end + 4
        method, target, *_ = first.split(" ")
        if target.startswith(("/sink", "/stall/")):
            self.received.clear()
            self.sinks = True
            return method, target, fields
        if "chunked" in fields.get("transfer-encoding", ""):
            found = self.received.find(b"0\r\n\r\n", start)
            if found < 0:
                return None
            whole = found + 5
        else:
            whole = start + int(fields.get("content-length", "0"))
            if len(self.received) < whole:
                return None
        del self.received[:whole]
        return method, target, fields

    def serve(self, method, target, fields):
        backend = self.backend
        if target == "/up":
            self.place.probes += 1
        else:
            self.place.requests += 1
            self.serving = fields.get("x-identity", "-")
            backend.note("R", self.serving)
        if backend.mode == "hang":
            return
        if fields.get("upgrade", "").lower() == "websocket":
            self.tunnel = True
            accept = base64.b64encode(hashlib.sha1((fields["sec-websocket-key"] + MAGIC).encode()).digest()).decode()
            head = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            self.transport.write(f"{head}Sec-WebSocket-Accept: {accept}\r\n\r\n".encode())
        elif target.startswith("/stall/"):
            self.transport.pause_reading()
            asyncio.get_running_loop().call_later(float(target.rsplit("/", 1)[1]), self.transport.abort)
        elif target.startswith("/big/"):
            backend.keep(self.stream(int(target.rsplit("/", 1)[1])))
        elif not self.sinks:
            delay = float(target.rsplit("/", 1)[1]) if target.startswith("/delay/") else backend.delay
            delay = 0 if target == "/up" else delay
            told = fields.get("gradual-version-id", backend.version)
            status = "200 OK" if told == backend.version else f"{MISDIRECTED} Misdirected Request"
            reply = (target, fields.get("x-identity", "-"), int(fields.get("x-size", "512")), status)
            if delay:
                asyncio.get_running_loop().call_later(delay, self.answer, *reply)
            else:
                self.answer(*reply)

    def answer(self, target, identity, size, status):
        if self.transport.is_closing():
            return
        backend = self.backend
        body = body_of(identity, backend.version, backend.name, size)
        head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n\r\n"
        self.transport.write(head.encode() + body)
        if target != "/up":
            self.serving = None
            backend.note("A", identity)
        if backend.stale:
            pause = random.uniform(*backend.stale)
            self.closing = asyncio.get_running_loop().call_later(pause, self.transport.close)

    async def stream(self, size):
        """A large body, sent only as fast as it is taken."""
        self.transport.write(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode())
        while size > 0 and not self.transport.is_closing():
            await self.flows.wait()
            piece = FILLER[: min(size, len(FILLER))]
            self.transport.write(piece)
            size -= len(piece)


async def main():
    name, version, journal, *ports = sys.argv[1:]
    backend = Backend(name, version, journal, ports)
    for place in backend.places:
        await backend.listen(place)
    loop = asyncio.get_running_loop()
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while line := await commands.readline():
        await backend.obey(line)


if __name__ == "__main__":
    asyncio.run(main())
