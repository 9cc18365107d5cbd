"""Hundreds of reloads under load, of files that are right, wrong, cut and empty.

Between two versions at two upstreams every right file moves all traffic. The upstream compares what it was told with what
it is, and the client what it is told with what it got: they agree, or a request has seen two configurations.
"""

import dataclasses
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import changes
import figures
from proxies import Job, start_all
from stage import Broken, descriptors, memory, threads

TITLE = "Reload storm"
PROXIES = ("gradual", "nginx", "haproxy")
RELOADS = "reloads meanwhile, every third of a right file"
# More than this, in per cent of its memory and in MiB, is growth: a few caches more or less are not.
GROWTH = 5
SOME = 1
# Between a reload that is done and the next one, in seconds.
PAUSE = 0.02
SIGNALS = {"gradual": signal.SIGHUP, "nginx": signal.SIGHUP, "haproxy": signal.SIGUSR2}
# What is replaced to make a file wrong, and by what; the peers' last word on a file that they do not take.
WRONG = {"gradual": ("percentage = 100", "percentage = 101"),
         "nginx": ("worker_connections 4096", "worker_connections many"),
         "haproxy": ("http-reuse always", "http-reuse many")}
REFUSED = {"nginx": "[emerg]", "haproxy": "Loading failure!"}


def play(stage, report):
    versions = {name: [stage.backend(name, name, delay=0.005)] for name in ("v1", "v2")}
    certificate, count = stage.certificate(), stage.pick(100, 1000)
    job = Job(versions, {"site": 0}, health=False, certificate=certificate, told=True, replaceable=True)
    proxies = start_all(stage, job)
    plan = {"rate": stage.pick(100, 200), "mix": changes.MIX, "trusted": certificate}
    control = stage.load(proxies, seconds=stage.pick(2, 5), **plan).wait()
    # The first reloads, and more requests at once than later, fill what is kept: buffers, series of metrics, pages of the
    # allocator.
    *_, broken = storm(stage, proxies, max(count // 5, 60), plan | {"rate": 3 * plan["rate"]})
    proxies = well(report, proxies, broken)
    before = at_rest(stage, proxies)
    load, requests, reloads, broken = storm(stage, proxies, count, plan)
    proxies = well(report, proxies, broken)
    after = at_rest(stage, proxies)
    for proxy in proxies:
        name = proxy.name
        report.add(name, RELOADS, f"{reloads[name]:,}", f"{count:,}", reloads[name] == count if name == "gradual" else None)
        changes.judge(report, name, control[name], requests[name], load.repeated[name])
        mixed = sum(each.outcome == "mixed" for each in requests[name])
        report.add(name, "answers of two configurations", mixed, "0", not mixed)
        grew(report, name, before[name], after[name])
    code = stage.end(proxies[0].process)
    report.add("gradual", "exit code", code, "0", code == 0)


def well(report, proxies, broken):
    """The proxies that can go on. What went wrong with the others is their only figure."""
    for name, reason in broken.items():
        report.add(name, RELOADS, f"broken: {reason}")
    return [proxy for proxy in proxies if proxy.name not in broken]


def storm(stage, proxies, count, plan):
    """Reloads under load: the load, the requests, how many reloads each proxy took while gradual took them all, and which
    of the others are broken."""
    load, over = stage.load(proxies, seconds=3600, **plan), threading.Event()
    with ThreadPoolExecutor(len(proxies)) as pool:
        running = {proxy.name: pool.submit(reload_often, proxy, count, over) for proxy in proxies}
        try:
            running["gradual"].result()
        finally:
            over.set()
    return load, load.finish(), *changes.ended(running)


def reload_often(proxy, count, over):
    """Reload until it is over; how often."""
    sequence = files(proxy)
    for number in range(count):
        if over.is_set():
            count = number
            break
        time.sleep(PAUSE)
        reload(proxy, *sequence[number % len(sequence)])
    # So that what is at rest is the same as before.
    reload(proxy, *sequence[3])
    return count


def files(proxy):
    """What is written, over and over: the text, and the version that serves afterwards (none: what served before)."""
    one, two = (proxy.text(dataclasses.replace(proxy.job, sites={"site": share})) for share in (0, 100))
    wrong = one.replace(*WRONG[proxy.name])
    if wrong == one:
        raise Broken(f"nothing is wrong with the file of {proxy.name}")
    cut = one.rstrip()[:-9]
    # HAProxy takes an empty file for a right one, and listens nowhere any more: it is spared that.
    empty = wrong if proxy.name == "haproxy" else ""
    return [(two, "v2"), (wrong, None), (two[: len(two) // 2], None), (one, "v1"), (empty, None), (cut, None)]


def reload(proxy, content, version):
    """Write a file, tell the proxy, and wait for what comes of it: gradual counts it, the others serve or complain."""
    is_done = counted(proxy, version) if proxy.name == "gradual" else seen(proxy, version)
    proxy.file.write_text(content)
    if proxy.name == "haproxy":
        changes.until(proxy, lambda: changes.listens_to_signals(proxy.pid), "its master has started again")
    os.kill(proxy.pid, SIGNALS[proxy.name])
    changes.until(proxy, is_done, "a right file is taken" if version else "a wrong file is refused")


def counted(proxy, version):
    def numbers():
        return proxy.metric("gradual_reloads_total") or 0, proxy.metric("gradual_config_generation")

    reloads, generation = numbers()
    return lambda: numbers() == (reloads + 1, generation + (1 if version else 0))


def seen(proxy, version):
    out = proxy.stage.folder / f"{proxy.name}.out"
    start = out.stat().st_size

    def is_done():
        if version is None:
            return REFUSED[proxy.name] in out.read_bytes()[start:].decode(errors="replace")
        answer = proxy.answer()
        return answer and answer[0] == 200 and answer[1].decode().startswith(f"{version} ")

    return is_done


def at_rest(stage, proxies):
    """Memory in KiB, descriptors and threads of each proxy, once nothing is connected to it any more."""
    for backend in stage.backends:
        backend.tell(mode="close")
        backend.tell(mode="up")
    least = {}
    # Idle connections are looked through every few seconds.
    for _ in range(14):
        time.sleep(0.5)
        for proxy in proxies:
            counts = [count(proxy.pid) for count in (memory, descriptors, threads)]
            least[proxy.name] = [min(pair) for pair in zip(least.get(proxy.name, counts), counts)]
    return least


def grew(report, name, before, after):
    """What is there at rest, before and after."""
    more = after[0] - before[0]
    grown = more / before[0] * 100
    sizes = figures.from_to(f"{before[0] / 1024:.1f}", f"{after[0] / 1024:.1f} MiB")
    report.add(name, "memory at rest", f"{sizes} ({grown:+.1f} %)", f"less than +{GROWTH} %, or {SOME} MiB",
               grown < GROWTH or more < SOME * 1024)
    report.add(name, "descriptors at rest", figures.from_to(before[1], after[1]), "+0", after[1] <= before[1])
    report.add(name, "threads at rest", figures.from_to(before[2], after[2]), "+0", after[2] <= before[2])
