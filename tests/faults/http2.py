"""HTTP/2 over TLS as a correct client speaks it, for GETs of at most 64 KiB (RFC 9113)."""

import asyncio
import ssl
import struct

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 1, 1, 4
NO_ERROR, REFUSED_STREAM = 0, 7
# A setting that keeps header blocks independent of each other, and nearly all of the connection's window.
HEADER_TABLE_SIZE, WINDOW = 1, 1 << 30
# How often a request that is never processed is sent again.
REPETITIONS = 3
# The static table's complete statuses (RFC 7541 appendix A), and the codes of digits (appendix B).
STATUSES = {0x88: 200, 0x89: 204, 0x8A: 206, 0x8B: 304, 0x8C: 400, 0x8D: 404, 0x8E: 500}
DIGITS = {"00000": "0", "00001": "1", "00010": "2"} | {f"{22 + digit:06b}": str(digit) for digit in range(3, 10)}


class Unprocessed(Exception):
    """The server has promised that it did not process the request, so whatever it is may be sent again (section 8.7)."""


def trusting(certificate):
    """The settings of a client that trusts this certificate, and speaks HTTP/2 only."""
    context = ssl.create_default_context(cafile=certificate)
    context.set_alpn_protocols(["h2"])
    return context


class Client:
    """Some connections that take turns, each kept for as long as the server lets it."""

    def __init__(self, port, host, context, connections=4):
        self.port, self.host, self.context = port, host, context
        # Tasks that make a connection, or have made one.
        self.slots = [None] * connections
        # How many connections there were, and how many requests were sent again.
        self.made = self.repeated = 0

    async def get(self, path, fields):
        """Status and body of a GET. What the server has not processed is sent again, on another connection."""
        for _ in range(REPETITIONS):
            connection = await self.connection()
            try:
                return await connection.get(self.host, path, fields)
            except Unprocessed:
                self.repeated += 1
        raise ConnectionAbortedError("no connection has processed the request")

    async def connection(self):
        while True:
            slot = self.slots.pop(0)
            if slot is None or (slot.done() and (slot.cancelled() or slot.exception() or slot.result().over)):
                slot = asyncio.ensure_future(self.connect())
            self.slots.append(slot)
            # Others wait for it, too: it does not end with a request that has waited for too long.
            connection = await asyncio.shield(slot)
            if not connection.over:
                return connection

    async def connect(self):
        self.made += 1
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            Connection, "127.0.0.1", self.port, ssl=self.context, server_hostname=self.host, ssl_handshake_timeout=10)
        return connection

    def close(self):
        for slot in self.slots:
            if slot and slot.done() and not slot.cancelled() and not slot.exception():
                slot.result().transport.close()


class Connection(asyncio.Protocol):
    """A connection until its end, or until the server has said GOAWAY: then only for what is under way."""

    def __init__(self):
        self.received, self.streams, self.next = bytearray(), {}, 1
        self.over, self.last = False, (1 << 31) - 1

    def connection_made(self, transport):
        self.transport = transport
        transport.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        self.send(SETTINGS, payload=struct.pack(">HI", HEADER_TABLE_SIZE, 0))
        self.send(WINDOW_UPDATE, payload=struct.pack(">I", WINDOW))

    def send(self, kind, flags=0, stream=0, payload=b""):
        self.transport.write(struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload)

    def get(self, host, path, fields):
        """Send a GET. Its fields are literals that are not indexed (RFC 7541 section 6.2.2)."""
        block = b""
        for name, value in ({":method": "GET", ":scheme": "https", ":authority": host, ":path": path} | fields).items():
            block += b"\0" + b"".join(bytes([len(part)]) + part for part in (name.lower().encode(), value.encode()))
        number, self.next = self.next, self.next + 2
        self.streams[number] = stream = Stream()
        self.send(HEADERS, END_HEADERS | END_STREAM, number, block)
        return stream.ended

    def data_received(self, data):
        self.received += data
        while len(self.received) >= 9:
            length = int.from_bytes(self.received[:3], "big")
            if len(self.received) < 9 + length:
                return
            kind, flags, number = struct.unpack(">BBI", self.received[3:9])
            payload = bytes(self.received[9 : 9 + length])
            del self.received[: 9 + length]
            self.frame(kind, flags, number & 0x7FFFFFFF, payload)

    def frame(self, kind, flags, number, payload):
        stream = self.streams.get(number)
        if kind in (SETTINGS, PING) and not flags & ACK:
            self.send(kind, ACK, 0, payload if kind == PING else b"")
        elif kind == GOAWAY:
            self.over, self.last = True, min(self.last, int.from_bytes(payload[:4], "big") & 0x7FFFFFFF)
            for above in [each for each in self.streams if each > self.last]:
                self.streams.pop(above).fail(Unprocessed())
        elif stream and kind == HEADERS:
            stream.status = stream.status or status_of(payload)
        elif stream and kind == DATA:
            stream.body += payload
        elif stream and kind == RST_STREAM:
            refused = int.from_bytes(payload, "big") == REFUSED_STREAM
            self.streams.pop(number).fail(Unprocessed() if refused else ConnectionResetError("the stream was reset"))
        if stream and kind in (HEADERS, DATA) and flags & END_STREAM:
            self.streams.pop(number).finish()
        if self.over and not self.streams:
            self.transport.close()

    def connection_lost(self, error):
        self.over = True
        for stream in self.streams.values():
            stream.fail(error or ConnectionResetError("the connection ended before the answer"))
        self.streams.clear()


class Stream:
    """One request, and what has come of it."""

    def __init__(self):
        self.status, self.body = 0, b""
        self.ended = asyncio.get_running_loop().create_future()

    def finish(self):
        if not self.ended.done():
            self.ended.set_result((self.status, self.body))

    def fail(self, error):
        # Nobody may wait any more.
        if not self.ended.done():
            self.ended.set_exception(error)


def status_of(block):
    """The status with which a header block begins; 0 where it is written in a way that is not known here."""
    while block and block[0] & 0xE0 == 0x20:
        # A change of the table's size.
        more = block[0] == 0x3F
        block = block[1:]
        while more:
            more, block = bool(block[0] & 0x80), block[1:]
    if block[0] in STATUSES:
        return STATUSES[block[0]]
    if block[0] not in (0x08, 0x18, 0x48):
        return 0
    text = block[2 : 2 + (block[1] & 0x7F)]
    if not block[1] & 0x80:
        return int(text)
    bits, digits = "".join(f"{byte:08b}" for byte in text), ""
    while len(digits) < 3:
        code = next((bits[:length] for length in (5, 6) if bits[:length] in DIGITS), None)
        if code is None:
            return 0
        digits, bits = digits + DIGITS[code], bits[len(code) :]
    return int(digits)
