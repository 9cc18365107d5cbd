"""The proxies under test, and how each is told to do the same job.

All split by a hash of Cloudflare-Workers-Version-Key between the versions v1 and v2, keep connections to upstreams open,
have two threads (or worker processes), the same deadlines, and repeat a request where that is safe: where nothing was
sent, or the method is idempotent and no answer has come.

What differs, because they differ: gradual and HAProxy probe `/up`, nginx has no probes in its free edition and takes a
server out after failures (max_fails, fail_timeout) instead.
"""

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from stage import Broken, accepts, alive, eventually


@dataclass
class Job:
    """What the proxies have to do in a scenario."""

    # The backends of each version.
    versions: dict
    # The percentage of v2, for each site; a site is a host, NAME.test, with the same keys.
    sites: dict = field(default_factory=lambda: {"site": 50})
    # Whether upstreams are probed, and taken out when they fail.
    health: bool = True
    # Whether the keys of a version that is down move to the other one.
    remap: bool = False
    # Deadlines in seconds: a connection, a response, the end.
    connect: float = 1.0
    response: float = 2.0
    grace: float = 5.0
    # How often HAProxy tries again; the others have no number for it. 3 is its default.
    retries: int = 3
    # Whether a client that leaves takes its request back, and an upload goes on as it comes; HAProxy does the first and nginx the
    # second only where it is told.
    abort: bool = False
    # Where the access log goes; "": nowhere.
    log: str = ""
    # Where a certificate and its key are, in one file, with which TLS is served too; "": it is not.
    certificate: str = ""
    # Whether upstreams and clients are told the version. gradual always tells upstreams.
    told: bool = False
    # Whether the program can be replaced while it runs: nginx is a daemon for that, and HAProxy has a master.
    replaceable: bool = False
    # Put in front of the command: words, such as prlimit's.
    prefix: tuple = ()
    # More variables for the process.
    environment: dict = field(default_factory=dict)
    # The user that it runs as; None: this one.
    user: int | None = None


def seconds(value):
    """A duration in milliseconds, as all three understand it."""
    return f"{round(value * 1000)}ms"


def gradual(job, name, ports, _folder):
    """gradual's file."""
    health = 'health = { path = "/up", interval = "500ms", timeout = "1s", fall = 2, rise = 2 }\n' if job.health else ""
    versions = "".join(
        f'[[worker.version]]\nid = "{version}"\n{health}upstreams = ['
        + ", ".join(f'"http://127.0.0.1:{backend.ports[name]}"' for backend in backends) + "]\n"
        for version, backends in job.versions.items())
    workers = "".join(f"""
[[worker]]
name = "{site}"
routes = ["{site}.test/*"]
{"expose_version = true" if job.told else ""}
timeouts = {{ connect = "{seconds(job.connect)}", response = "{seconds(job.response)}" }}
{'on_unavailable = "remap"' if job.remap else ""}
[worker.affinity]
salt = "faults"
{versions}
[worker.deployment]
versions = [
  {{ version_id = "v2", percentage = {share} }},
  {{ version_id = "v1", percentage = {100 - share} }},
]
""" for site, share in job.sites.items())
    tls = f"""
[[listener]]
address = "127.0.0.1:{ports[3]}"
tls = [{{ certificate = "{job.certificate}", key = "{job.certificate}" }}]
""" if job.certificate else ""
    return f"""
[server]
threads = 2
[[listener]]
address = "127.0.0.1:{ports[0]}"
{tls}
[limits]
drain_timeout = "{seconds(job.grace)}"
[log]
access = "{job.log or "off"}"
[admin]
address = "127.0.0.1:{ports[2]}"
{workers}"""


def nginx(job, name, ports, folder):
    """nginx's configuration. A pool whose only server fails is never taken out: that is nginx's rule."""
    failures = "max_fails=3 fail_timeout=2s" if job.health else "max_fails=0"
    pools = "".join(
        f"    upstream {version} {{ zone {version} 128k; "
        + " ".join(f"server 127.0.0.1:{backend.ports[name]} {failures};" for backend in backends)
        + " keepalive 256; }\n" for version, backends in job.versions.items())
    remap = "error_page 502 503 504 = @other;" if job.remap else ""
    tls = f"""listen 127.0.0.1:{ports[3]} ssl http2;
        ssl_certificate {job.certificate}; ssl_certificate_key {job.certificate};""" if job.certificate else ""
    version = f"$version_{next(iter(job.sites))}"
    told = f"proxy_set_header Gradual-Version-Id {version}; add_header Gradual-Version {version};" if job.told else ""
    # It knows no 0 %.
    sites = "".join(f"""
    split_clients "$http_cloudflare_workers_version_key" $version_{site} {{ {f"{share}% v2;" if share else ""} * v1; }}
    map $version_{site} $other_{site} {{ v1 v2; v2 v1; }}
    server {{
        listen 127.0.0.1:{ports[0]}; listen 127.0.0.1:{ports[1]} http2; server_name {site}.test;
        {tls}
        location / {{ proxy_pass http://$version_{site}; {remap} }}
        location @other {{ proxy_pass http://$other_{site}; }}
    }}""" for site, share in job.sites.items())
    temporary = " ".join(f"{kind}_temp_path {folder}/nginx-{kind};" for kind in
                         ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    user = "user root;" if os.geteuid() == 0 and job.user is None else ""
    uploads = "proxy_request_buffering off; client_max_body_size 0;" if job.abort else ""
    return f"""
daemon {"on" if job.replaceable else "off"}; worker_processes 2; pid {folder}/nginx.pid; error_log stderr warn; {user}
worker_shutdown_timeout {seconds(job.grace)};
events {{ worker_connections 4096; }}
http {{
    access_log {job.log or "off"}; {temporary}
    keepalive_requests 1000000; proxy_http_version 1.1; proxy_set_header Host $http_host;
    map $http_upgrade $hop {{ default upgrade; "" ""; }}
    proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $hop; {told}
    proxy_connect_timeout {seconds(job.connect)}; proxy_read_timeout {seconds(job.response)};
    proxy_next_upstream error timeout; proxy_next_upstream_tries 2; proxy_max_temp_file_size 0; {uploads}
{pools}{sites}
}}
"""


def haproxy(job, name, ports, folder):
    """HAProxy's configuration."""
    check = "check inter 500ms fastinter 500ms downinter 500ms fall 2 rise 2" if job.health else ""
    pools = "".join(
        f"backend {version}\n"
        + (f"  http-request set-header Gradual-Version-Id {version}\n"
           f"  http-response set-header Gradual-Version {version}\n" if job.told else "")
        + "".join(f"  server {backend.name} 127.0.0.1:{backend.ports[name]} {check}\n"
                                         for backend in backends) for version, backends in job.versions.items())
    rules = []
    for site, share in job.sites.items():
        here = f"{{ hdr(host) -i {site}.test }}"
        v2 = f"{{ req.hdr(cloudflare-workers-version-key),xxh32,mod(10000) lt {round(share * 100)} }}"
        if job.remap:
            rules.append(f"use_backend v1 if {here} {v2} {{ nbsrv(v2) eq 0 }}")
            rules.append(f"use_backend v2 if {here} {{ nbsrv(v1) eq 0 }}")
        rules += [f"use_backend v2 if {here} {v2}", f"use_backend v1 if {here}"]
    master = (f"master-worker\n  stats socket {folder}/haproxy.sock mode 600 level admin expose-fd listeners"
              if job.replaceable else "")
    log = "log stdout format raw local0\n  option httplog" if job.log else "option dontlognull"
    tls = f"bind 127.0.0.1:{ports[3]} ssl crt {job.certificate} alpn h2,http/1.1" if job.certificate else ""
    return f"""
global
  nbthread 2
  hard-stop-after {seconds(job.grace)}
  {master}
defaults
  mode http
  timeout connect {seconds(job.connect)}
  timeout client 60s
  timeout server {seconds(job.response)}
  timeout tunnel 60s
  timeout http-keep-alive 60s
  http-reuse always
  retries {job.retries}
  retry-on conn-failure empty-response
  option redispatch 1
  option httpchk GET /up
  {"option abortonclose" if job.abort else ""}
  timeout check 1s
  {log}
frontend faults
  bind 127.0.0.1:{ports[0]}
  bind 127.0.0.1:{ports[1]} proto h2
  {tls}
  http-request disable-l7-retry unless METH_GET
""" + "".join(f"  {rule}\n" for rule in rules) + pools


@dataclass(frozen=True)
class Kind:
    """How a proxy is configured, started, told to reload and told to end gracefully."""

    text: object
    file: str
    command: tuple
    finish: str
    version: tuple


KINDS = {
    "gradual": Kind(gradual, "gradual.toml", ("{gradual}", "run", "{file}"), "SIGTERM", ("{gradual}", "--version")),
    "nginx": Kind(nginx, "nginx.conf", ("nginx", "-e", "stderr", "-c", "{file}"), "SIGQUIT", ("nginx", "-v")),
    "haproxy": Kind(haproxy, "haproxy.cfg", ("haproxy", "-db", "-f", "{file}"), "SIGUSR1", ("haproxy", "-v")),
}


def version_of(name, options):
    """What a proxy says of itself."""
    command = [word.format(gradual=options.gradual) for word in KINDS[name].version]
    done = subprocess.run(command, capture_output=True, text=True)
    said = (done.stdout + done.stderr).strip().splitlines()[0]
    return said.removeprefix("nginx version: ").removesuffix(" - https://haproxy.org/")


class Proxy:
    """A proxy that runs; it is known to answer, and to split."""

    def __init__(self, stage, name, job, start=True):
        self.stage, self.name, self.job, self.kind = stage, name, job, KINDS[name]
        self.ports = stage.free_ports(4)
        self.port, self.h2_port, self.admin, self.tls_port = self.ports
        if name == "gradual":
            self.h2_port = self.port
        self.folder = stage.folder / name
        self.folder.mkdir(exist_ok=True)
        self.file = self.folder / self.kind.file
        self.file.write_text(self.text())
        if job.user is not None:
            for path in (self.folder, self.file):
                shutil.chown(path, job.user, job.user)
        if start:
            self.start()

    def text(self, job=None):
        return self.kind.text(job or self.job, self.name, self.ports, self.folder)

    def command(self):
        program, *words = [word.format(gradual=self.stage.program, file=self.file) for word in self.kind.command]
        # nginx starts its successor by the very path that it was started by.
        return [*self.job.prefix, shutil.which(program) or program, *words]

    def spawn(self):
        """Start the process without waiting for it to serve."""
        options = {"cwd": self.folder, "env": os.environ | self.job.environment}
        if self.job.user is not None:
            options |= {"user": self.job.user, "group": self.job.user, "extra_groups": []}
        if self.job.log and self.name == "haproxy":
            # HAProxy logs to a syslog or to its standard output.
            options["stdout"] = os.open(self.job.log, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
            self.stage.closing.callback(os.close, options["stdout"])
        if self.job.replaceable:
            self.stage.closing.callback(self.end_successors)
        self.process = self.stage.start(self.command(), self.name, **options)
        return self.process

    @property
    def pid(self):
        """The process that counts now, which need not be the one that was started; None while that is open."""
        try:
            if self.job.replaceable and self.name == "nginx":
                return int((self.folder / "nginx.pid").read_text())
            if self.job.replaceable and self.name == "gradual":
                return json.loads(self.ask("/api/v1/status")[1])["pid"]
        except (OSError, ValueError, http.client.HTTPException):
            return None
        return self.process.pid

    def end_successors(self):
        """End what came of the process that was started; its file, in a folder of its own, is among its arguments."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            mine = []
            for arguments in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    if str(self.file) in arguments.read_text(errors="replace"):
                        mine.append(int(arguments.parent.name))
                        os.kill(mine[-1], number)
            with contextlib.suppress(Broken):
                eventually(lambda: not any(map(alive, mine)), "they end", patience=self.job.grace + 2)

    def start(self):
        self.spawn()
        eventually(self.serves, f"{self.name} serves:\n{self.stage.said(self.name)}")

    def serves(self):
        if self.process.poll() is not None and not (self.name == "nginx" and self.job.replaceable):
            raise Broken(f"{self.name} ended with {self.process.returncode}: {self.stage.said(self.name)}")
        if self.name == "gradual":
            with contextlib.suppress(OSError):
                return self.ask("/readyz")[0] == 200
            return False
        return accepts(self.port)

    def ask(self, path, method="GET", timeout=5):
        """A request to gradual's admin address: status and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=timeout)
        with contextlib.closing(connection):
            connection.request(method, path, headers={"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read().decode()

    def metric(self, name, **labels):
        """The sum of a metric's series that have these labels; None where there is no such series."""
        found = []
        for line in self.ask("/metrics")[1].splitlines():
            series = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
            if series and series[1] == name:
                has = dict(re.findall(r'(\w+)="([^"]*)"', series[2] or ""))
                if all(has.get(label) == value for label, value in labels.items()):
                    found.append(float(series[3]))
        return sum(found) if found else None

    def get(self, timeout=5, host="site.test"):
        """One request on a connection of its own: its status, or None."""
        answer = self.answer(timeout, host)
        return answer and answer[0]

    def answer(self, timeout=5, host="site.test"):
        """One request on a connection of its own: its status and its body, or None."""
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
            with contextlib.closing(connection):
                connection.request("GET", "/", headers={"Host": host, "Cloudflare-Workers-Version-Key": "somebody"})
                response = connection.getresponse()
                return response.status, response.read()
        except (OSError, http.client.HTTPException):
            return None


def start_all(stage, job):
    """Every proxy that takes part, each with the same job."""
    return [Proxy(stage, name, job) for name in stage.proxies]
