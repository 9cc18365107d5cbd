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


def play(stage, report):
    first, second = (stage.backend(name, "v1") for name in ("first", "second"))
    other = stage.backend("other", "v2")
    proxies = start_all(stage, Job({"v1": [first, second], "v2": [other]}))
    seconds, interval = stage.options.soak, 4 if stage.options.soak < 60 else 10
    control = stage.load(proxies, rate=100, seconds=3, post=0.2).wait()
    load = stage.load(proxies, rate=100, seconds=seconds, post=0.2, timeout=5.0)
    faults, samples, number = kinds(proxies, first, second), {proxy.name: [] for proxy in proxies}, 0
    while (number + 1) * interval < seconds:
        load.wait_until(number * interval + 1)
        begin, finish = faults[number % len(faults)]
        begin()
        load.wait_until(number * interval + 1 + interval / 4)
        finish()
        load.wait_until((number + 1) * interval)
        for proxy in proxies:
            pid = proxy.process.pid
            samples[proxy.name].append((time.monotonic(), memory(pid), descriptors(pid), threads(pid)))
        number += 1
    results = load.wait(seconds + 60)
    arrived, _ = stage.delivered()
    for proxy in proxies:
        judge(report, proxy, control[proxy.name], (results[proxy.name], arrived), samples[proxy.name], number)


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
    name, (requests, arrived) = proxy.name, ended
    report.add(name, "failed without the fault", figures.outcomes(control), "0", not figures.failed(control))
    report.add(name, f"failed, with {faults} faults", figures.outcomes(requests))
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
    # The first round of faults fills pools and caches; what grows after it is what leaks.
    kept = samples[len(samples) // 3:]
    if len(kept) > 1:
        report.add(name, "descriptors, least and most", f"{min(each[2] for each in kept)}, {max(each[2] for each in kept)}")
        report.add(name, "threads", f"{min(each[3] for each in kept)} to {max(each[3] for each in kept)}")
        report.add(name, "memory", f"{min(each[1] for each in kept) / 1024:.1f} to "
                   f"{max(each[1] for each in kept) / 1024:.1f} MiB")
        minutes = (kept[-1][0] - kept[0][0]) / 60
        if minutes >= 1:
            slope = statistics.linear_regression([each[0] / 60 for each in kept], [each[1] / 1024 for each in kept]).slope
            report.add(name, "slope of memory", f"{slope:+.2f} MiB a minute", "at most +1", slope <= 1, gate=False)
