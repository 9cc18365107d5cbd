"""Mixed load, one fault after another, and what is left behind."""

import contextlib
import signal
import socket
import statistics
import time

import figures
from proxies import Job, start_all
from stage import descriptors, memory, threads

TITLE = "Soak"
PROXIES = ("gradual", "nginx", "haproxy")
# How much more may be there after the last round of faults than after the second. Memory goes up and down by some MiB as
# allocators give it back; descriptors, by what is kept open to upstreams.
MEMORY, DESCRIPTORS = 4, 16
# From how many minutes on a slope is more than that of the noise.
SLOPE_FROM = 5


def play(stage, report):
    first, second = (stage.backend(name, "v1") for name in ("first", "second"))
    other = stage.backend("other", "v2")
    proxies = start_all(stage, Job({"v1": [first, second], "v2": [other]}))
    seconds = stage.options.soak
    control = stage.load(proxies, rate=100, seconds=3, post=0.2).wait()
    load = stage.load(proxies, rate=100, seconds=seconds, post=0.2, timeout=5.0)
    faults, samples, number = kinds(proxies, first, second), {proxy.name: [] for proxy in proxies}, 0
    # At least three rounds of all faults: the first fills pools and caches, the others show what grows.
    interval = min(10.0, (seconds - 1) / (3 * len(faults)))
    while (number + 1) * interval < seconds:
        load.wait_until((number + 0.25) * interval)
        begin, finish = faults[number % len(faults)]
        begin()
        load.wait_until((number + 0.5) * interval)
        finish()
        load.wait_until((number + 1) * interval)
        for proxy in proxies:
            pid = proxy.process.pid
            samples[proxy.name].append((time.monotonic(), memory(pid), descriptors(pid), threads(pid)))
        number += 1
    results = load.wait(seconds + 60)
    arrived, _ = stage.delivered()
    for proxy in proxies:
        judge(report, proxy, control[proxy.name], (results[proxy.name], arrived), samples[proxy.name], (seconds, number, len(faults)))


def kinds(proxies, first, second):
    """Every fault: what begins it, and what ends it."""
    def signals():
        for proxy in proxies:
            if proxy.name != "haproxy":
                proxy.process.send_signal(signal.SIGHUP)

    def break_files():
        for proxy in proxies:
            proxy.file.write_text(proxy.text()[:-40])
        signals()

    def mend_files():
        for proxy in proxies:
            proxy.file.write_text(proxy.text())
        signals()

    crowd = []

    def clients_come():
        for proxy in proxies:
            for number in range(50):
                client = socket.create_connection(("127.0.0.1", proxy.port), 5)
                client.sendall(b"GET /big/2000000 HTTP/1.1\r\nHost: site.test\r\n"[: 10 + number] if number % 2 else
                               b"GET /big/2000000 HTTP/1.1\r\nHost: site.test\r\n\r\n")
                crowd.append(client)

    def clients_leave():
        while crowd:
            with contextlib.suppress(OSError):
                crowd.pop().close()

    return [
        (first.kill, first.start),
        (clients_come, clients_leave),
        (break_files, mend_files),
        (lambda: second.tell(mode="close"), lambda: second.tell(mode="up")),
        (lambda: first.tell(stale=[0, 0.005]), lambda: first.tell(stale=None)),
        (lambda: second.tell(mode="hang"), lambda: second.tell(mode="up")),
    ]


def judge(report, proxy, control, ended, samples, faults):
    name, (requests, arrived), (seconds, number, kinds_of) = proxy.name, ended, faults
    report.add(name, "failed without the fault", figures.outcomes(control), "0", not figures.failed(control))
    report.add(name, f"failed in {seconds:,} s, with {number} faults", figures.outcomes(requests))
    wrong = sum(each.outcome == "wrong" for each in requests)
    report.add(name, "wrong bodies", wrong, "0", not wrong)
    twice = figures.delivered_twice(requests, arrived)
    report.add(name, "POSTs delivered twice", len(twice), "0", not twice)
    keys = figures.moved(figures.versions_of(control), requests)
    report.add(name, "keys that changed version", len(keys), "0", not keys)
    alive = proxy.process.poll() is None
    report.add(name, "alive", "yes" if alive else f"exit code {proxy.process.returncode}", "yes", alive)
    if name == "gradual":
        panics = proxy.metric("gradual_panics_total")
        report.add(name, "panics", f"{panics or 0:.0f}", "0", not panics)
    kept = samples[kinds_of:]
    minutes = (kept[-1][0] - kept[0][0]) / 60
    for what, values, bar, unit in (("memory", [each[1] / 1024 for each in kept], MEMORY, " MiB"),
                                    ("descriptors", [each[2] for each in kept], DESCRIPTORS, ""),
                                    ("threads", [each[3] for each in kept], 0, "")):
        report.add(name, f"{what}, least and most", f"{min(values):.4g}, {max(values):.4g}{unit}")
        grown = growth(values, kinds_of)
        report.add(name, f"{what}: growth from the second round of faults to the last", f"{grown:+.1f}{unit}",
                   f"at most +{bar}{unit}", grown <= bar)
        if bar and minutes >= SLOPE_FROM:
            # No more over all of the time than may be left at its end.
            slope, most = statistics.linear_regression([each[0] / 60 for each in kept], values).slope, bar / minutes
            report.add(name, f"{what}: slope", f"{slope:+.2f}{unit} a minute", f"at most +{most:.2f}{unit} a minute",
                       slope <= most, gate=False)


def growth(values, round_of):
    """How much more the last round has than the first of these, by their medians: each fault leaves another state behind."""
    return statistics.median(values[-round_of:]) - statistics.median(values[:round_of])
