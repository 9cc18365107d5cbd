"""As much of an HTTP/2 client as the scenarios need, frame by frame (RFC 9113)."""

import socket
import struct

DATA, HEADERS, RST_STREAM, SETTINGS, PING = 0, 1, 3, 4, 6
END_STREAM, ACK, END_HEADERS = 1, 1, 4
CANCEL = 8


class Http2:
    """A connection by prior knowledge; with a context of TLS, inside of that."""

    def __init__(self, port, timeout=20, tls=None):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls:
            self.socket = tls.wrap_socket(self.socket)
        self.socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        self.send(SETTINGS)

    def send(self, kind, flags=0, stream=0, payload=b""):
        self.socket.sendall(struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload)

    def get(self, stream, path, fields):
        """A GET that ends its stream. Its fields are literals that are not indexed (RFC 7541 section 6.2.2)."""
        block = b""
        for name, value in ({":method": "GET", ":scheme": "http", ":path": path} | fields).items():
            block += b"\0" + b"".join(bytes([len(part)]) + part for part in (name.encode(), value.encode()))
        self.send(HEADERS, END_HEADERS | END_STREAM, stream, block)

    def cancel(self, stream):
        self.send(RST_STREAM, 0, stream, struct.pack(">I", CANCEL))

    def frames(self):
        """Every frame that comes, as kind, flags, stream and payload; what wants an acknowledgement gets it."""
        reader = self.socket.makefile("rb")
        while len(head := reader.read(9)) == 9:
            length = int.from_bytes(head[:3], "big")
            kind, flags, stream = struct.unpack(">BBI", head[3:])
            payload = reader.read(length)
            if kind in (SETTINGS, PING) and not flags & ACK:
                self.send(kind, ACK, 0, payload if kind == PING else b"")
            yield kind, flags, stream & 0x7FFFFFFF, payload

    def close(self):
        self.socket.close()


def is_200(block):
    """Whether a header block begins with status 200, which has a place in the static table."""
    while block and block[0] & 0xE0 == 0x20:
        # A change of the table's size.
        more = block[0] == 0x3F
        block = block[1:]
        while more:
            more, block = bool(block[0] & 0x80), block[1:]
    return block[:1] == b"\x88"
