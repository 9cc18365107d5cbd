"""The access log goes where nothing can be written: a full device, a full file system, a pipe that nobody reads."""

import fcntl
import os
import subprocess

import figures
from proxies import Job, Proxy

TITLE = "Log that cannot be written"
PROXIES = ("gradual", "nginx", "haproxy")
# Long, so that lines are, and whatever buffers them is soon full.
PATH = "/" + "long-path/" * 600


def play(stage, report):
    versions = {"v1": [stage.backend("first", "v1")], "v2": [stage.backend("second", "v2")]}
    control = None
    for what, place in (("log in a file", ordinary), ("/dev/full", device), ("64 KiB file system", file_system),
                        ("pipe that nobody reads", pipe)):
        targets = {name: place(stage, name) for name in stage.proxies}
        if not all(targets.values()):
            report.add("gradual", what, "skipped: mounting a tmpfs needs root")
            continue
        proxies = [Proxy(stage, name, Job(versions, health=False, log=target)) for name, target in targets.items()]
        results = stage.load(proxies, rate=450, seconds=stage.pick(2, 6), timeout=2.0, path=PATH).wait()
        control = control or results
        for proxy in proxies:
            judge(report, proxy, what, control[proxy.name], results[proxy.name])
            stage.end(proxy.process, patience=1)


def judge(report, proxy, what, control, requests):
    name = proxy.name
    report.add(name, f"{what}: failed", figures.outcomes(requests), "0", not figures.failed(requests))
    if requests is not control:
        report.add(name, f"{what}: p99", figures.from_to(figures.p99(control), figures.p99(requests)), figures.NO_SLOWER,
                   figures.no_slower(control, requests), gate=False)
    if name == "gradual":
        dropped = proxy.metric("gradual_access_log_dropped_total") or 0
        wanted = requests is not control
        report.add(name, f"{what}: lines dropped, as counted", f"{dropped:,.0f}", "more than 0" if wanted else "0",
                   (dropped > 0) == wanted)


def ordinary(stage, name):
    return str(stage.folder / f"{name}.log")


def device(_stage, _name):
    return "/dev/full"


def file_system(stage, name):
    folder = stage.folder / f"{name}-small"
    folder.mkdir()
    folder.chmod(0o755)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=777", "tmpfs", folder], capture_output=True).returncode:
        return None
    stage.closing.callback(subprocess.run, ["umount", "--lazy", folder], capture_output=True)
    return str(folder / "access.log")


def pipe(stage, name):
    path = stage.folder / f"{name}.pipe"
    os.mkfifo(path)
    # Opened, so that nobody waits for a reader, and never read.
    opened = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    stage.closing.callback(os.close, opened)
    fcntl.fcntl(opened, fcntl.F_SETPIPE_SZ, 4096)
    return str(path)
