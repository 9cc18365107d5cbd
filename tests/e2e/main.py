"""Sets the stage, runs every check, prints what passed and what failed. Started by `run` beside it."""

import resource
import signal
import sys

import checks_api
import checks_assets
import checks_demo
import checks_grpc
import checks_http
import checks_life
import checks_rules
import checks_split
import checks_upgrade
import checks_websocket
import checks_wrangler
from backends import Backend, GrpcEcho, Loop, WebSocketEcho, start_nginx
from harness import Program, World, free_ports, run_check

V1 = "db7cd8d3-4425-4fe7-8c81-01bf963b6067"
V2 = "dc8dcd28-271b-4367-9840-6c244f84cb40"
V3 = "0f1e2d3c-4b5a-4697-8879-6a5b4c3d2e1f"
MODULES = [checks_http, checks_split, checks_websocket, checks_grpc, checks_life, checks_upgrade, checks_demo,
           checks_rules, checks_assets, checks_api, checks_wrangler]


def worker(name, upstream, tls=""):
    """A worker of one version, for the host NAME.test."""
    return f"""
[[worker]]
name = "{name}"
routes = ["{name}.test/*"]
[[worker.version]]
id = "{name}-only"
upstreams = ["{upstream}"]
{tls}
[worker.deployment]
versions = [{{ version_id = "{name}-only", percentage = 100 }}]
"""


def configuration(world):
    """The file of the program under test: every kind of listener and of upstream."""
    pair = 'tls = [{ certificate = "cert.pem", key = "key.pem" }]'
    authority = 'tls = { ca = "ca.pem", server_name = "secure.test" }'
    return f"""
[server]
threads = 2
[[listener]]
address = "127.0.0.1:{world.plain}"
health_path = "/healthz"
[[listener]]
address = "127.0.0.1:{world.tls}"
{pair}
[[listener]]
address = "unix:{world.socket}"
[[listener]]
address = "127.0.0.1:{world.proxy_protocol}"
proxy_protocol = true
trusted_proxies = ["127.0.0.1"]
[[listener]]
address = "127.0.0.1:{world.redirect}"
redirect = "https"
[log]
access = "access.log"
[admin]
address = "127.0.0.1:{world.admin}"

[[worker]]
name = "shop"
routes = ["shop.test/*"]
expose_version = true
[[worker.version]]
id = "{V1}"
tag = "v1"
created_on = 2026-11-20T12:00:00Z
upstreams = ["http://127.0.0.1:{world.v1.port}"]
[[worker.version]]
id = "{V2}"
tag = "v2"
upstreams = ["http://127.0.0.1:{world.v2.port}"]
[[worker.version]]
id = "{V3}"
tag = "v3"
upstreams = ["http://127.0.0.1:{world.v3.port}"]
[worker.deployment]
versions = [
  {{ version_id = "{V2}", percentage = 10 }},
  {{ version_id = "{V1}", percentage = 90 }},
  {{ version_id = "{V3}", percentage = 0 }},
]
""" + "".join([
        worker("static", f"http://127.0.0.1:{world.nginx[0]}"),
        worker("secure", f"https://127.0.0.1:{world.nginx[1]}", authority),
        worker("stranger", f"https://localhost:{world.nginx[1]}"),
        worker("socket", f"unix:{world.backend_socket}"),
        worker("gone", f"http://127.0.0.1:{world.nobody}"),
        worker("ws", f"http://127.0.0.1:{world.websocket.port}"),
        worker("grpc", f"h2c://127.0.0.1:{world.grpc.port}"),
        worker("grpcs", f"https://127.0.0.1:{world.grpc.tls}", authority),
    ])


def set_stage(world):
    """Start the servers and the program."""
    loop = Loop()
    world.closing.callback(loop.close)
    world.versions = {"v1": V1, "v2": V2, "v3": V3}
    world.v1, world.v2, world.v3 = (Backend(loop, version) for version in ("v1", "v2", "v3"))
    world.backend_socket = world.folder / "backend.sock"
    loop.run(world.v1.listen(str(world.backend_socket)))
    world.websocket = WebSocketEcho(loop)
    world.grpc = GrpcEcho(world.folder)
    world.closing.callback(world.grpc.close)
    world.nginx = start_nginx(world)
    world.socket = world.folder / "http.sock"
    world.plain, world.tls, world.proxy_protocol, world.redirect, world.admin, world.nobody = free_ports(6)
    world.program = Program(world, "main", configuration(world))


def main():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    checks = [value for module in MODULES for value in vars(module).values() if getattr(value, "is_check", False)]
    words = sys.argv[1:]
    checks = [check for check in checks if not words or any(word in check.__name__ for word in words)]
    world = World()

    def the_program_starts_and_is_ready(world):
        set_stage(world)

    try:
        results = [run_check(world, the_program_starts_and_is_ready)]
        if results == ["passed"]:
            results += [run_check(world, check) for check in checks]
        if "failed" in results and hasattr(world, "program"):
            print(f"what the program said last:\n{world.program.said()}")
    finally:
        world.close()
    print(", ".join(f"{results.count(what)} {what}" for what in ("passed", "failed", "skipped")))
    sys.exit(0 if "failed" not in results and checks else 1)


if __name__ == "__main__":
    main()
