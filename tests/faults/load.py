"""A load generator that says what became of every request: one process for each proxy under load.

    load.py PLAN RESULT        both are files of JSON

It says when it is ready, and is then told, in a line on its standard input, at what moment to begin. Where that input ends
before the load does, the load ends, too.

Where the plan has a `rate`, requests are due at fixed moments, whatever became of those before, and a latency counts from
the moment at which its request was due: so a proxy that stands still is seen to. Where it has `workers`, each sends its
next request when it has the last one's answer, after a pause. A connection is used for one request at a time, and kept.
With a `mix`, a share of the requests goes over each kind of connection instead: "kept" ones, "new" ones for one request each,
and "h2", a few long ones of HTTP/2 with TLS at `tls_port`, with the certificate of the file `trusted`.

The result has one row for each request: when it was due, how long it took, its method, its key, its identity, its outcome,
the version and the backend that answered, how late it was sent (that is the machine's doing, or the load's, and never the
proxy's), and the kind of connection. An outcome is "ok", a status of three digits, "closed"
(no answer, or half of one), "timeout", "refused" (no connection), "wrong" (another body than the request's), or "mixed" (the
answer itself, what the upstream was told and what the client was told do not name one version). Over HTTP/2 a
request that the server says it did not process (GOAWAY, REFUSED_STREAM) is sent again, as by every such client;
the result says how many were.
"""

import asyncio
import json
import random
import sys
import time

from backend import MISDIRECTED, body_of
from http2 import Client as Http2Client
from http2 import trusting

# Bodies of POSTs.
BODY = b"x" * 200


class Client:
    """The load for one proxy."""

    def __init__(self, plan):
        self.port, self.host, self.path = plan["port"], plan.get("host", "site.test"), plan.get("path", "/")
        self.keys, self.post, self.size = plan["keys"], plan.get("post", 0.0), plan.get("size", 512)
        self.timeout, self.plan = plan.get("timeout", 10.0), plan
        self.random = random.Random(plan.get("seed", 1))
        self.idle, self.rows, self.count, self.over = [], [], 0, False
        self.mix, self.http2 = plan.get("mix"), None
        if self.mix:
            self.http2 = Http2Client(plan["tls_port"], self.host, trusting(plan["trusted"]))

    async def run(self, start):
        self.start = start
        loop = asyncio.get_running_loop()
        loop.add_reader(sys.stdin, self.finish)
        await asyncio.sleep(start - time.monotonic())
        await (self.steadily() if "rate" in self.plan else self.in_turn())
        loop.remove_reader(sys.stdin)
        for _, writer in self.idle:
            writer.close()
        if self.http2:
            self.http2.close()
        return {"rows": self.rows, "repeated": self.http2.repeated if self.http2 else 0}

    def finish(self):
        """Send nothing more; what is under way goes on."""
        self.over = True
        asyncio.get_running_loop().remove_reader(sys.stdin)

    async def steadily(self):
        """So many requests a second, for so many seconds."""
        async with asyncio.TaskGroup() as under_way:
            for number in range(int(self.plan["rate"] * self.plan["seconds"])):
                due = self.start + number / self.plan["rate"]
                if (pause := due - time.monotonic()) > 0:
                    await asyncio.sleep(pause)
                if self.over:
                    break
                under_way.create_task(self.request(due))

    async def in_turn(self):
        """So many requests in all, by so many workers."""
        numbers = iter(range(self.plan["count"]))

        async def work():
            for _ in numbers:
                if self.over:
                    break
                await asyncio.sleep(self.random.uniform(*self.plan.get("pause", (0, 0))))
                await self.request(time.monotonic())

        await asyncio.gather(*(work() for _ in range(self.plan["workers"])))

    async def request(self, due):
        late = time.monotonic() - due
        self.count += 1
        identity, key = f"{self.plan['name']}-{self.count}", self.keys[self.count % len(self.keys)]
        method = "POST" if self.random.random() < self.post else "GET"
        kind = self.random.choices([*self.mix], [*self.mix.values()])[0] if self.mix else "kept"
        version = backend = ""
        try:
            async with asyncio.timeout(self.timeout):
                status, exposed, body = await self.exchange(kind, method, key, identity)
            words = body[:200].split(b"\n")[0].decode("latin-1").split(" ")
            if status == 200 and len(words) == 3:
                version, backend, _ = words
                outcome = "ok" if body == body_of(identity, version, backend, self.size) else "wrong"
                if exposed and exposed.split(";")[0].strip('"') != version:
                    outcome = "mixed"
            else:
                outcome = {200: "wrong", MISDIRECTED: "mixed"}.get(status, str(status))
        except TimeoutError:
            outcome = "timeout"
        except ConnectionRefusedError:
            outcome = "refused"
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError):
            outcome = "closed"
        self.rows.append((due, time.monotonic() - due, method, key, identity, outcome, version, backend, late, kind))

    async def connection(self, kind):
        while self.idle and kind == "kept":
            reader, writer = self.idle.pop()
            if not reader.at_eof() and not writer.is_closing():
                return reader, writer
            writer.close()
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def exchange(self, kind, method, key, identity):
        """Send a request and read its answer: status, the version that it names, and body. A connection is kept only
        after a whole answer."""
        if kind == "h2":
            fields = {"Cloudflare-Workers-Version-Key": key, "X-Identity": identity, "X-Size": str(self.size)}
            status, body = await self.http2.get(self.path, fields)
            return status, "", body
        reader, writer = await self.connection(kind)
        kept = False
        try:
            body = BODY if method == "POST" else b""
            length = f"Content-Length: {len(body)}\r\n" if body else ""
            length += "Connection: close\r\n" if kind == "new" else ""
            head = (f"{method} {self.path} HTTP/1.1\r\nHost: {self.host}\r\nCloudflare-Workers-Version-Key: {key}\r\n"
                    f"X-Identity: {identity}\r\nX-Size: {self.size}\r\n{length}\r\n")
            writer.write(head.encode() + body)
            status, fields = parse(await reader.readuntil(b"\r\n\r\n"))
            body = await read_body(reader, fields)
            kept = kind == "kept" and fields.get("connection", "").lower() != "close"
            return status, fields.get("gradual-version", ""), body
        finally:
            if kept:
                self.idle.append((reader, writer))
            else:
                writer.close()


def parse(head):
    """Status and fields of a response's head."""
    first, *lines = head.decode("latin-1").split("\r\n")
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return int(first.split(" ")[1]), fields


async def read_body(reader, fields):
    if "content-length" in fields:
        return await reader.readexactly(int(fields["content-length"]))
    if "chunked" not in fields.get("transfer-encoding", ""):
        return await reader.read()
    body = b""
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readuntil(b"\r\n")
    return body


def main():
    plan, result = sys.argv[1:]
    with open(plan, encoding="utf-8") as file:
        client = Client(json.load(file))
    print("ready", flush=True)
    done = asyncio.run(client.run(float(sys.stdin.readline())))
    with open(result, "w", encoding="utf-8") as file:
        json.dump(done, file)


if __name__ == "__main__":
    main()
