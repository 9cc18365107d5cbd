"""The servers of the Vite application in `shop/`: one for each edition, as a plain web server would serve it."""

import asyncio
import contextlib
import hashlib
import mimetypes
import os
from pathlib import Path

EDITIONS = ("a", "b")
# Where `run` has built the editions, a folder for each.
BUILT = Path(os.environ.get("SHOP", "/nonexistent"))
NOT_FOUND = b"<!doctype html><title>404</title><h1>Not found</h1>"


def load(edition):
    """The files of an edition, by their path in a URL."""
    folder = BUILT / edition
    files = {f"/{file.relative_to(folder)}": file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    return files | {"/": files["/index.html"]}


class ShopServer:
    """Serves one edition: the page is asked for afresh each time, hashed files are kept for ever, and all else is 404 or,
    with `answers_all`, the page with 200: what single-page applications are often served with."""

    def __init__(self, loop, edition, answers_all):
        self.edition, self.answers_all = edition, answers_all
        self.files = load(edition)
        # The path of every request.
        self.asked = []
        self.port = loop.run(self.listen())

    @property
    def assets(self):
        """The paths of the hashed files."""
        return sorted(path for path in self.files if path.startswith("/assets/"))

    async def listen(self):
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        return server.sockets[0].getsockname()[1]

    async def serve(self, reader, writer):
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *lines = head.decode("latin-1").rstrip().split("\r\n")
                method, target, _ = first.split(" ")
                fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
                writer.write(self.answer(method, target.partition("?")[0], fields))
                await writer.drain()
        writer.close()

    def answer(self, method, path, fields):
        self.asked.append(path)
        status, body, kind = "200 OK", self.files.get(path), mimetypes.guess_type(path)[0] or "text/html"
        cache = "public, max-age=31536000, immutable" if path.startswith("/assets/") else "no-cache"
        if body is None and self.answers_all:
            body, kind, cache = self.files["/"], "text/html", "no-cache"
        elif body is None:
            status, body, kind, cache = "404 Not Found", NOT_FOUND, "text/html", None
        tag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
        if fields.get("if-none-match") == tag:
            return f"HTTP/1.1 304 Not Modified\r\nETag: {tag}\r\nCache-Control: {cache}\r\n\r\n".encode()
        lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
        lines += [f"ETag: {tag}", f"Cache-Control: {cache}"] if cache else []
        return "\r\n".join([*lines, "", ""]).encode() + (b"" if method == "HEAD" else body)
