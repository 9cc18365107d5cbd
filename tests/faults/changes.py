"""The load under which a proxy is changed, over every kind of connection, and what is said of it."""

import re
import time
from pathlib import Path

import figures
from stage import Broken

# The share of each kind of connection, as load.py knows them, and its name.
MIX = {"kept": 0.3, "new": 0.4, "h2": 0.3}
KINDS = {"kept": "kept connections", "new": "a new connection each", "h2": "HTTP/2 with TLS"}


def judge(report, name, control, requests, repeated):
    """What became of the requests before and during the changes, and how many were sent again."""
    report.add(name, "failed without the fault", figures.outcomes(control), "0", not figures.failed(control))
    for kind, connections in KINDS.items():
        among = [each for each in requests if each.kind == kind]
        report.add(name, f"{connections}: failed", figures.outcomes(among), "0", among and not figures.failed(among))
    refused = sum(each.outcome == "refused" for each in requests)
    report.add(name, "connections refused", refused, "0", not refused)
    report.add(name, "HTTP/2: sent again, as GOAWAY lets every client", repeated)
    report.add(name, "p99", figures.from_to(figures.p99(control), figures.p99(requests)))


def ended(running):
    """What each proxy's thread came to, and, of others than gradual, what went wrong with them."""
    done, broken = {}, {}
    for name, each in running.items():
        try:
            done[name] = each.result()
        except Broken as error:
            if name == "gradual":
                raise
            broken[name] = str(error).splitlines()[0]
    return done, broken


def until(proxy, question, what, patience=30):
    """Ask often until the answer is true."""
    deadline = time.monotonic() + patience
    while not question():
        if time.monotonic() > deadline:
            raise Broken(f"{proxy.name}: in {patience} s it never happened that {what}: {proxy.stage.said(proxy.name)}")
        time.sleep(0.005)


def listens_to_signals(pid):
    """Whether HAProxy's master has started: it catches SIGINT then. A signal that comes earlier may be lost."""
    status = Path(f"/proc/{pid}/status").read_text()
    blocked, caught = (int(re.search(rf"{name}:\s+(\w+)", status)[1], 16) for name in ("SigBlk", "SigCgt"))
    return not blocked and caught & 0b10
