"""Forwarding, as curl, nginx and bare sockets see it."""

import hashlib
import json
import socket

from harness import check, eventually, expect, expect_equal

UPLOAD = bytes(range(256)) * 4 * 1024 * 5


def raw(world, request, port=None):
    """Send bytes, and read until the other side closes."""
    with socket.create_connection(("127.0.0.1", port or world.plain), 10) as connection:
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def echo(answer):
    """What the backend says that it was asked."""
    expect_equal(answer.status, 200, answer.trace)
    seen = json.loads(answer.text)
    seen["fields"] = {name.lower(): value for name, value in seen["headers"]}
    return seen


def expect_upload(answer):
    seen = echo(answer)
    expect_equal((seen["length"], seen["sha256"]), (len(UPLOAD), hashlib.sha256(UPLOAD).hexdigest()), "the upload")
    return seen


@check
def curl_is_answered_over_http_1_1(world):
    answer = world.curl("http://shop.test/", "--http1.1")
    expect_equal((answer.status, answer.version), (200, "1.1"), answer.trace)
    expect(answer.text in ("v1\n", "v2\n"), answer.text)


@check
def curl_is_answered_over_http_2_with_prior_knowledge(world):
    answer = world.curl("http://shop.test/", "--http2-prior-knowledge")
    expect_equal((answer.status, answer.version), (200, "2"), answer.trace)


@check
def tls_offers_http_2_and_http_1_1_by_alpn(world):
    for words, version in ((["--http2"], "2"), (["--http1.1"], "1.1"), (["--no-alpn"], "1.1")):
        answer = world.curl("https://shop.test/", *words)
        expect_equal((answer.status, answer.version), (200, version), answer.trace)


@check
def curl_is_answered_over_a_unix_socket(world):
    answer = world.curl("http://shop.test/", "--unix-socket", world.socket)
    expect_equal(answer.status, 200, answer.trace)


@check
def a_unix_socket_can_be_an_upstream(world):
    expect_equal(world.curl("http://socket.test/").text, "v1\n")


@check
def a_static_file_of_nginx_arrives_whole_and_connections_to_it_are_reused(world):
    wanted = (world.folder / "nginx/files/page.html").read_bytes()
    connections = set()
    for _ in range(20):
        answer = world.curl("http://static.test/page.html")
        expect(answer.body == wanted, f"{len(answer.body)} bytes with status {answer.status}")
        connections.add(answer.headers["x-connection"])
    expect(len(connections) <= 5, f"20 requests over {len(connections)} connections")


@check
def conditional_and_range_requests_pass(world):
    etag = world.curl("http://static.test/page.html").headers["etag"]
    expect_equal(world.curl("http://static.test/page.html", "-H", f"If-None-Match: {etag}").status, 304)
    part = world.curl("http://static.test/page.html", "-H", "Range: bytes=3-8")
    expect_equal((part.status, part.body), (206, b"static"))
    head = world.curl("http://static.test/page.html", "--head")
    expect_equal((head.status, head.headers.get("content-length")), (200, "140000"))


@check
def an_https_upstream_is_verified_and_answers(world):
    answer = world.curl("https://secure.test/page.html")
    expect_equal((answer.status, len(answer.body)), (200, 140_000), answer.trace)


@check
def an_https_upstream_with_a_certificate_of_an_unknown_authority_is_not_used(world):
    answer = world.curl("http://stranger.test/page.html")
    expect(answer.status in (502, 503) and answer.headers.get("gradual-error"), answer.trace)


@check
def an_upload_waits_for_100_continue_and_arrives_whole(world):
    file = world.folder / "upload"
    file.write_bytes(UPLOAD)
    answer = world.curl("http://shop.test/echo", "--http1.1", "-H", "Expect: 100-continue", "--expect100-timeout", "15",
                        "-T", file)
    expect("HTTP/1.1 100 Continue" in answer.trace, answer.trace)
    expect_upload(answer)


@check
def a_chunked_upload_arrives_whole(world):
    answer = world.curl("http://shop.test/echo", "--http1.1", "-H", "Transfer-Encoding: chunked", "-T", "-", stdin=UPLOAD)
    expect_upload(answer)


@check
def an_upload_over_http_2_and_tls_arrives_whole(world):
    file = world.folder / "upload"
    file.write_bytes(UPLOAD)
    expect_equal(expect_upload(world.curl("https://shop.test/echo", "--http2", "-T", file))["method"], "PUT")
    expect_upload(world.curl("https://shop.test/echo", "--http2", "-T", "-", stdin=UPLOAD))


@check
def trailers_of_a_response_pass(world):
    for words in (["--http1.1"], ["--http2-prior-knowledge"]):
        answer = world.curl("http://shop.test/trailers", "-H", "TE: trailers", *words)
        expect_equal((answer.text, answer.headers.get("x-sum")), ("body", "42"), answer.trace)


@check
def trailers_of_a_request_pass(world):
    answer = raw(world, b"POST /echo HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n"
                        b"Trailer: X-Sum\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 7\r\n\r\n")
    expect(b'"trailers": {"x-sum": "7"}' in answer, answer)


@check
def path_and_query_are_forwarded_byte_for_byte(world):
    target = "/echo/a%2fB/%7Euser;p=1?q=%20&&x[]=%C3%A9&empty="
    expect_equal(echo(world.curl(f"http://shop.test{target}", "--globoff", "--path-as-is"))["target"], target)


@check
def version_metadata_is_set_and_cannot_be_forged(world):
    override = f'Cloudflare-Workers-Version-Overrides: shop="{world.versions["v1"]}"'
    forged = ["-H", "Gradual-Version-Id: forged", "-H", "Gradual-Anything: forged"]
    seen = echo(world.curl("http://shop.test/echo", "-H", override, *forged))
    got = {name: value for name, value in seen["headers"] if name.lower().startswith("gradual-")}
    got = {name.lower(): value for name, value in got.items()}
    expect_equal(got, {"gradual-worker": "shop", "gradual-version-id": world.versions["v1"], "gradual-version-tag": "v1",
                       "gradual-version-timestamp": "2026-11-20T12:00:00Z"})
    expect_equal(seen["fields"]["cloudflare-workers-version-overrides"], override.split(": ", 1)[1])


@check
def forwarding_headers_of_strangers_are_replaced(world):
    lies = ["X-Forwarded-For: 198.51.100.9", "X-Forwarded-Proto: gopher", "X-Forwarded-Host: lie.test",
            "Forwarded: for=198.51.100.9", "X-Real-IP: 198.51.100.9"]
    seen = echo(world.curl("https://shop.test/echo", *[word for lie in lies for word in ("-H", lie)]))["fields"]
    expect_equal((seen["host"], seen["x-forwarded-for"], seen["x-forwarded-proto"], seen["x-forwarded-host"]),
                 ("shop.test", "127.0.0.1", "https", "shop.test"))
    expect("forwarded" not in seen and "x-real-ip" not in seen and "via" in seen, seen)


@check
def hop_by_hop_headers_stay_on_their_hop(world):
    hop = ["Connection: X-Hop", "X-Hop: 1", "Keep-Alive: timeout=5", "Proxy-Authorization: Basic eDp5", "X-End: 2"]
    seen = echo(world.curl("http://shop.test/echo", "--http1.1", *[word for each in hop for word in ("-H", each)]))["fields"]
    expect("x-hop" not in seen and "keep-alive" not in seen and seen["x-end"] == "2", seen)


@check
def a_proxy_that_forwards_to_itself_is_noticed(world):
    answer = world.curl("http://shop.test/echo", "-H", f"Via: {', '.join(['1.1 gradual'] * 8)}")
    expect(answer.status in (200, 508), answer.status)
    via = echo(world.curl("http://shop.test/echo"))["fields"]["via"]
    looped = world.curl("http://shop.test/echo", "-H", f"Via: {', '.join([via] * 8)}")
    expect_equal(looped.status, 508, via)


@check
def http_2_cookie_crumbs_are_joined_for_an_http_1_1_upstream(world):
    seen = echo(world.curl("http://shop.test/echo", "--http2-prior-knowledge", "-H", "Cookie: a=1", "-H", "Cookie: b=2"))
    cookies = [value for name, value in seen["headers"] if name.lower() == "cookie"]
    expect_equal(cookies, ["a=1; b=2"])


@check
def a_response_cut_short_upstream_is_cut_short_downstream(world):
    for words in (["--http1.1"], ["--http2-prior-knowledge"]):
        answer = world.curl("http://shop.test/cut", *words)
        expect(answer.exit_code != 0, f"curl {words[0]} took {answer.body!r} for whole")


@check
def an_upstream_that_refuses_connections_is_503_with_its_kind(world):
    answer = world.curl("http://gone.test/")
    expect_equal(answer.status, 503, answer.trace)
    expect(answer.headers.get("gradual-error") and len(answer.body) < 2048, answer.trace)


@check
def a_host_without_a_worker_is_404_with_json(world):
    answer = world.curl("http://unknown.test/")
    expect_equal(answer.status, 404)
    expect(isinstance(json.loads(answer.text), dict), answer.text)


@check
def ambiguous_requests_are_refused_and_the_connection_closed(world):
    bad = {
        "two hosts": b"GET / HTTP/1.1\r\nHost: shop.test\r\nHost: static.test\r\n\r\n",
        "no host": b"GET / HTTP/1.1\r\nX: y\r\n\r\n",
        "two lengths": b"POST /echo HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
        "a space before the colon": b"GET / HTTP/1.1\r\nHost : shop.test\r\n\r\n",
    }
    for name, request in bad.items():
        answer = raw(world, request)
        first = answer.split(b"\r\n", 1)[0]
        expect(first.startswith(b"HTTP/1.1 400") and answer.count(b"HTTP/1.1 ") == 1, f"{name}: {answer[:300]!r}")


@check
def of_two_framings_at_most_one_reaches_the_upstream_and_the_connection_is_closed(world):
    for fields in (b"Content-Length: 4\r\nTransfer-Encoding: chunked", b"Transfer-Encoding: chunked\r\nContent-Length: 4"):
        answer = raw(world, b"POST /echo HTTP/1.1\r\nHost: shop.test\r\n" + fields +
                     b"\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: shop.test\r\n\r\n")
        expect(answer.count(b"HTTP/1.1 ") == 1, answer)
        refused, framed = answer.startswith(b"HTTP/1.1 400"), answer.lower().count(b'["content-length", "4"]') == 0
        expect(refused or framed, answer)


@check
def a_client_that_leaves_is_left_by_the_upstream_connection_too(world):
    gates = [backend.gate("left") for backend in (world.v1, world.v2)]
    with socket.create_connection(("127.0.0.1", world.plain), 10) as connection:
        connection.sendall(b"GET /gate/left HTTP/1.1\r\nHost: shop.test\r\n\r\n")
        eventually(lambda: sum(gate.held for gate in gates), "the request is held")
    eventually(lambda: sum(gate.left for gate in gates), "the backend sees that its client has left")


@check
def connect_is_405(world):
    answer = raw(world, b"CONNECT shop.test:443 HTTP/1.1\r\nHost: shop.test:443\r\nConnection: close\r\n\r\n")
    expect(answer.startswith(b"HTTP/1.1 405"), answer)


@check
def the_health_path_is_answered_by_the_proxy_itself(world):
    expect_equal(world.curl("http://whatever.test/healthz").status, 200)


@check
def the_redirect_listener_sends_clients_to_https(world):
    answer = world.curl("http://shop.test/a?b=c", port=world.redirect)
    expect_equal((answer.status, answer.headers.get("location")), (308, "https://shop.test/a?b=c"))


@check
def the_proxy_protocol_tells_the_clients_address(world):
    request = b"GET /echo HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n"
    v1 = b"PROXY TCP4 203.0.113.7 127.0.0.1 40000 80\r\n"
    v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes([203, 0, 113, 7, 127, 0, 0, 1]) + b"\x9c\x40\0\x50"
    for header in (v1, v2):
        answer = raw(world, header + request, world.proxy_protocol)
        expect(b'["x-forwarded-for", "203.0.113.7"]' in answer.lower(), answer)
    expect_equal(world.curl("http://shop.test/", "--haproxy-protocol", port=world.proxy_protocol).status, 200)
    expect(not raw(world, request, world.proxy_protocol), "a connection without the header was answered")


@check
def server_sent_events_arrive_one_by_one(world):
    request = b"GET /events/one HTTP/1.1\r\nHost: shop.test\r\nCloudflare-Workers-Version-Key: k\r\n\r\n"
    gates = [backend.gate("one") for backend in (world.v1, world.v2)]
    with socket.create_connection(("127.0.0.1", world.plain), 10) as connection:
        connection.sendall(request)
        received = b""
        while b"data: first" not in received:
            received += connection.recv(4096) or b"data: first, but the connection ended"
        expect(b"second" not in received, received)
        for gate in gates:
            gate.open()
        while b"data: second" not in received:
            received += connection.recv(4096) or b"data: second, but the connection ended"
        expect(b"ended" not in received, received)


@check
def a_slow_client_is_sent_everything(world):
    with socket.create_connection(("127.0.0.1", world.plain), 10) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(b"GET /page.html HTTP/1.1\r\nHost: static.test\r\nConnection: close\r\n\r\n")
        received = 0
        while piece := connection.recv(700):
            received += len(piece)
    expect(received > 140_000, received)


@check
def access_log_lines_are_json_with_their_members(world):
    def line():
        lines = [json.loads(text) for text in (world.folder / "access.log").read_text().splitlines()]
        return next((each for each in lines if "needle" in each["Event"]["Request"]["URL"]), None)

    override = f'Cloudflare-Workers-Version-Overrides: shop="{world.versions["v2"]}"'
    world.curl("http://shop.test/needle?q=%22", "-H", override)
    found = eventually(line, "the line is written")
    expect_equal((found["ScriptName"], found["EventType"], found["Outcome"], found["Reason"]),
                 ("shop", "fetch", "ok", "override"))
    expect_equal((found["ScriptVersion"]["id"], found["ScriptVersion"]["tag"]), (world.versions["v2"], "v2"))
    expect_equal(found["Event"]["Request"], {"URL": "http://shop.test/needle?q=%22", "Method": "GET"})
    expect_equal(found["Event"]["Response"]["Status"], 200)
    expect(str(world.v2.port) in found["Upstream"] and found["WallTimeMs"] >= 0, found)


@check
def metrics_count_requests_by_worker_version_and_reason(world):
    labels = {"worker": "shop", "version": world.versions["v3"], "reason": "override", "status": "2xx"}
    before = world.program.metric("gradual_requests_total", **labels)
    override = f'Cloudflare-Workers-Version-Overrides: shop="{world.versions["v3"]}"'
    for _ in range(3):
        world.curl("http://shop.test/", "-H", override)
    eventually(lambda: world.program.metric("gradual_requests_total", **labels) == before + 3, "three more are counted")
    expect_equal(world.program.metric("gradual_deployment_percentage", worker="shop", version=world.versions["v1"]), 90)


@check
def the_admin_address_refuses_foreign_hosts_but_answers_probes(world):
    foreign = {"Host": "attacker.test"}
    expect(400 <= world.program.ask("GET", "/api/v1/status", foreign)[0] < 500, "the status was given")
    expect(400 <= world.program.ask("POST", "/api/v1/reload")[0] < 500, "a reload without a content type was obeyed")
    expect_equal([world.program.ask("GET", path, foreign)[0] for path in ("/healthz", "/readyz")], [200, 200])
    expect_equal(json.loads(world.program.ask("GET", "/api/v1/status")[1])["generation"], 1)
