"""WebSocket over HTTP/1.1 and, by extended CONNECT (RFC 8441), over HTTP/2."""

import asyncio
import os
import socket

import h2.config
import h2.connection
import h2.events
import h2.settings
import websockets
from harness import check, eventually, expect, expect_equal


def connect(world, scheme="ws", **options):
    """A WebSocket to ws.test through the proxy."""
    port = world.tls if scheme == "wss" else world.plain
    return websockets.connect(f"{scheme}://ws.test/chat", host="127.0.0.1", port=port, proxy=None, **options)


@check
def a_thousand_websocket_messages_are_echoed(world):
    async def talk():
        async with connect(world) as connection:
            sent = [f"message {number}" if number % 2 else os.urandom(number) for number in range(1000)]
            for message in sent:
                await connection.send(message)
                expect_equal(await connection.recv(), message)

    asyncio.run(talk())


@check
def large_websocket_messages_pass_both_ways_at_once(world):
    async def talk():
        async with connect(world, max_size=None) as connection:
            sent = [os.urandom(900_000) for _ in range(8)]

            async def send():
                for message in sent:
                    await connection.send(message)

            sending = asyncio.create_task(send())
            for message in sent:
                expect(await connection.recv() == message, "a message came back changed")
            await sending

    asyncio.run(talk())


@check
def a_websocket_that_the_client_closes_is_closed_at_the_server(world):
    async def talk():
        connection = await connect(world)
        await connection.close(4002, "bye")

    before = len(world.websocket.closed)
    asyncio.run(talk())
    eventually(lambda: 4002 in world.websocket.closed[before:], "the server sees the code")


@check
def a_websocket_that_the_server_closes_is_closed_at_the_client(world):
    async def talk():
        connection = await connect(world)
        await connection.send("close")
        await connection.wait_closed()
        return connection.close_code, connection.close_reason

    expect_equal(asyncio.run(talk()), (4001, "as asked"))


@check
def websockets_work_over_tls(world):
    async def talk():
        import ssl
        trust = ssl.create_default_context(cafile=world.folder / "ca.pem")
        async with connect(world, "wss", ssl=trust) as connection:
            await connection.send("hello")
            return await connection.recv()

    expect_equal(asyncio.run(talk()), "hello")


class ExtendedConnect:
    """One WebSocket as a stream of an HTTP/2 connection with prior knowledge."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), 10)
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self.h2.initiate_connection()
        self.status, self.data, self.ended = None, b"", False
        self.flush()

    def flush(self):
        self.socket.sendall(self.h2.data_to_send())

    def read_until(self, condition):
        while not condition():
            received = self.socket.recv(65536)
            expect(received, "the connection was closed")
            for event in self.h2.receive_data(received):
                self.take(event)
            self.flush()

    def take(self, event):
        if isinstance(event, h2.events.ResponseReceived):
            self.status = dict(event.headers)[":status"]
        elif isinstance(event, h2.events.DataReceived):
            self.data += event.data
            self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, (h2.events.StreamEnded, h2.events.StreamReset)):
            self.ended = True

    def offered(self):
        return self.h2.remote_settings.get(h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL, 0) == 1

    def open(self):
        self.h2.send_headers(1, [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http"),
                                 (":authority", "ws.test"), (":path", "/chat"), ("sec-websocket-version", "13")])
        self.flush()
        self.read_until(lambda: self.status is not None)

    def send(self, opcode, payload):
        """A masked frame with a payload below 126 bytes."""
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
        self.h2.send_data(1, bytes([0x80 | opcode, 0x80 | len(payload)]) + mask + masked)
        self.flush()


@check
def a_websocket_over_http_2_reaches_an_http_1_1_upstream(world):
    stream = ExtendedConnect(world.plain)
    stream.read_until(stream.offered)
    stream.open()
    expect_equal(stream.status, "200")
    for number in range(100):
        text = f"over HTTP/2: {number}".encode()
        stream.data = b""
        stream.send(0x1, text)
        stream.read_until(lambda: len(stream.data) >= 2 + len(text))
        expect_equal(stream.data, bytes([0x81, len(text)]) + text)
    before, stream.data = len(world.websocket.closed), b""
    code = (4003).to_bytes(2, "big")
    stream.send(0x8, code)
    stream.read_until(lambda: stream.ended)
    expect_equal(stream.data, b"\x88\x02" + code)
    stream.h2.end_stream(1)
    stream.flush()
    eventually(lambda: 4003 in world.websocket.closed[before:], "the server sees the code")
    stream.socket.close()
