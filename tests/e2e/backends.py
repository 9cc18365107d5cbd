"""Servers behind the proxy: one that says what it was asked, WebSocket, gRPC, and nginx."""

import asyncio
import contextlib
import hashlib
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import websockets.asyncio.server

from harness import accepts, eventually, free_ports


class Loop:
    """An event loop on a thread of its own."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def run(self, coroutine, patience=30):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(patience)

    async def cancel_all(self):
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def close(self):
        self.run(self.cancel_all())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(5)


class Gate:
    """Requests are held here until the check lets them go on."""

    def __init__(self, loop):
        self.loop = loop
        # How many came, and how many of those had gone before the gate was opened.
        self.held = self.left = 0
        self.opened = asyncio.Event()

    def open(self):
        """Let all of them go on."""
        self.loop.call_soon_threadsafe(self.opened.set)

    async def pass_through(self, reader):
        self.held += 1
        opened = asyncio.create_task(self.opened.wait())
        gone = asyncio.create_task(reader.read(1))
        await asyncio.wait([opened, gone], return_when=asyncio.FIRST_COMPLETED)
        if not opened.done():
            self.left += 1
        opened.cancel()
        gone.cancel()
        await asyncio.gather(opened, gone, return_exceptions=True)


class Backend:
    """An HTTP/1.1 server, written down to the bytes so that nothing is hidden; one for each version."""

    def __init__(self, loop, version):
        self.loop, self.version, self.gates = loop, version, {}
        self.port = loop.run(self.listen())

    async def listen(self, path=None):
        if path:
            await asyncio.start_unix_server(self.serve, path)
            return None
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        return server.sockets[0].getsockname()[1]

    def gate(self, name):
        """The gate of the path /gate/NAME or /events/NAME."""
        return self.gates.setdefault(name, Gate(self.loop.loop))

    async def serve(self, reader, writer):
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while await self.answer(reader, writer):
                await writer.drain()
        writer.close()

    async def answer(self, reader, writer):
        """Answer one request; returns whether the connection goes on."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.rstrip().split("\r\n")
        method, target, _ = first.split(" ")
        headers = [[part.strip() for part in line.split(":", 1)] for line in lines]
        fields = {name.lower(): value for name, value in headers}
        if fields.get("expect", "").lower() == "100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body, trailers = await read_body(reader, fields)
        path, _, name = target.lstrip("/").partition("/")
        if path == "gate":
            await self.gate(name).pass_through(reader)
        if path == "events":
            return await self.events(reader, writer, self.gate(name))
        if path == "trailers":
            self.send(writer, {"Transfer-Encoding": "chunked", "Trailer": "X-Sum"}, b"4\r\nbody\r\n0\r\nX-Sum: 42\r\n\r\n")
        elif path == "hangup":
            self.send(writer, {"Content-Length": "2"}, b"ok")
            return False
        elif path == "cut":
            self.send(writer, {"Content-Length": "1000"}, b"too short")
            return False
        elif path == "echo":
            seen = {"version": self.version, "method": method, "target": target, "headers": headers, "length": len(body),
                    "sha256": hashlib.sha256(body).hexdigest(), "trailers": trailers}
            text = json.dumps(seen).encode()
            self.send(writer, {"Content-Type": "application/json", "Content-Length": str(len(text))}, text)
        else:
            text = f"{self.version}\n".encode()
            self.send(writer, {"Content-Length": str(len(text))}, b"" if method == "HEAD" else text)
        return True

    async def events(self, reader, writer, gate):
        """Server-sent events: the second is sent only once the check has seen the first."""
        self.send(writer, {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"}, b"d\r\ndata: first\n\n\r\n")
        await writer.drain()
        await gate.pass_through(reader)
        writer.write(b"e\r\ndata: second\n\n\r\n0\r\n\r\n")
        return True

    def send(self, writer, headers, body):
        head = "".join(f"{name}: {value}\r\n" for name, value in ({"X-Version": self.version} | headers).items())
        writer.write(f"HTTP/1.1 200 OK\r\n{head}\r\n".encode() + body)


async def read_body(reader, fields):
    """A request's body, and its trailers."""
    if "chunked" not in fields.get("transfer-encoding", "").lower():
        return await reader.readexactly(int(fields.get("content-length", "0"))), {}
    body, trailers = b"", {}
    while length := int((await reader.readline()).split(b";")[0], 16):
        body += await reader.readexactly(length)
        await reader.readexactly(2)
    while line := (await reader.readline()).decode().rstrip():
        name, _, value = line.partition(":")
        trailers[name.lower()] = value.strip()
    return body, trailers


class WebSocketEcho:
    """A WebSocket server that echoes; the message "close" makes it close with the code 4001."""

    def __init__(self, loop):
        self.closed = []
        self.port = loop.run(self.listen())

    async def listen(self):
        server = await websockets.asyncio.server.serve(self.echo, "127.0.0.1", 0)
        return server.sockets[0].getsockname()[1]

    async def echo(self, connection):
        with contextlib.suppress(websockets.ConnectionClosed):
            async for message in connection:
                if message == "close":
                    await connection.close(4001, "as asked")
                else:
                    await connection.send(message)
        await connection.wait_closed()
        self.closed.append(connection.close_code)


class GrpcEcho:
    """gRPC in all four shapes, with bytes as messages; without TLS (`port`) and with it (`tls`)."""

    def __init__(self, folder):
        self.waiting, self.cancelled = threading.Event(), threading.Event()
        handlers = {
            "Unary": grpc.unary_unary_rpc_method_handler(self.unary),
            "Collect": grpc.stream_unary_rpc_method_handler(lambda messages, _: b"".join(messages)),
            "Count": grpc.unary_stream_rpc_method_handler(self.count),
            "Chat": grpc.stream_stream_rpc_method_handler(lambda messages, _: (b"re: " + each for each in messages)),
            "Refuse": grpc.unary_unary_rpc_method_handler(self.refuse),
            "Wait": grpc.unary_unary_rpc_method_handler(self.wait),
        }
        self.server = grpc.server(ThreadPoolExecutor(16))
        self.server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test.Echo", handlers)])
        pair = ((folder / "key.pem").read_bytes(), (folder / "cert.pem").read_bytes())
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.tls = self.server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
        self.server.start()

    @staticmethod
    def unary(message, context):
        context.set_trailing_metadata([("x-length", str(len(message)))])
        return message

    @staticmethod
    def count(message, _context):
        return (str(number).encode() for number in range(int(message)))

    @staticmethod
    def refuse(_message, context):
        context.abort(grpc.StatusCode.NOT_FOUND, "no such thing: 100 %")

    def wait(self, _message, context):
        """Answers only when the caller has given up."""
        done = threading.Event()
        context.add_callback(done.set)
        self.waiting.set()
        if done.wait(20):
            self.cancelled.set()
        return b""

    def close(self):
        self.server.stop(0).wait(5)


def start_nginx(world):
    """nginx as an upstream: a static file, the same with TLS, and two fast versions for load. Returns the four ports."""
    ports = free_ports(4)
    folder = world.folder / "nginx"
    (folder / "files").mkdir(parents=True)
    folder.chmod(0o755)
    world.folder.chmod(0o755)
    (folder / "files" / "page.html").write_bytes(b"<p>static</p>\n" * 10_000)
    places = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
    temporary = " ".join(f"{place}_temp_path {folder}/{place};" for place in places)
    tls = f"ssl_certificate {world.folder}/cert.pem; ssl_certificate_key {world.folder}/key.pem;"
    fast = "".join(
        f'server {{ listen 127.0.0.1:{port}; add_header X-Version {version}; return 200 "{version}\\n"; }}\n'
        for port, version in zip(ports[2:], ("v1", "v2")))
    text = f"""
        daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
        events {{ worker_connections 2048; }}
        http {{ access_log off; {temporary} {tls}
            server {{ listen 127.0.0.1:{ports[0]}; listen 127.0.0.1:{ports[1]} ssl http2; root {folder}/files;
                      add_header X-Connection $connection; }}
            {fast} }}"""
    (folder / "nginx.conf").write_text(text)
    command = ["nginx", "-e", "stderr", "-c", folder / "nginx.conf"]
    world.processes.start(command, world.folder / "nginx.out")
    eventually(lambda: all(map(accepts, ports)), "nginx listens")
    return ports
