"""The program is replaced by a new one, again and again, under load."""

import os
import signal
import statistics
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import changes
from proxies import Job, start_all
from stage import Broken, alive, tree

TITLE = "Binary upgrade"
PROXIES = ("gradual", "nginx", "haproxy")

# Between the end of an old process and the next upgrade, in seconds.
PAUSE = 0.5


def play(stage, report):
    versions = {name: [stage.backend(name, name, delay=0.02)] for name in ("v1", "v2")}
    certificate, count = stage.certificate(), stage.pick(3, 20)
    proxies = start_all(stage, Job(versions, health=False, certificate=certificate, replaceable=True))
    plan = {"rate": stage.pick(100, 300), "mix": changes.MIX, "trusted": certificate}
    control = stage.load(proxies, seconds=stage.pick(2, 5), **plan).wait()
    load = stage.load(proxies, seconds=3600, **plan)
    with ThreadPoolExecutor(len(proxies)) as pool:
        running = {proxy.name: pool.submit(replace_often, proxy, count) for proxy in proxies}
    requests = load.finish()
    done, broken = changes.ended(running)
    for name in requests:
        if name in broken:
            report.add(name, "upgrades", f"broken: {broken[name]}")
            continue
        overlaps = done[name]
        report.add(name, "upgrades", len(overlaps), f"{count}", len(overlaps) == count)
        changes.judge(report, name, control[name], requests[name], load.repeated[name])
        overlaps = [each * 1000 for each in overlaps]
        report.add(name, "old and new serve side by side: median, most",
                   f"{statistics.median(overlaps):.0f} ms, {max(overlaps):.0f} ms")


def replace_often(proxy, count):
    """Upgrades, one after another; for how many seconds processes of both served, each time."""
    replace, overlaps = {"gradual": gradual, "nginx": nginx, "haproxy": haproxy}[proxy.name], []
    for number in range(count):
        time.sleep(PAUSE)
        old = replace(proxy, number)
        began = time.monotonic()
        changes.until(proxy, lambda: not any(map(alive, old)), "the old process ends")
        overlaps.append(time.monotonic() - began)
    return overlaps


# Each of these starts a new process and returns as soon as it serves, with the old processes that are to end.


def gradual(proxy, number):
    """By a signal and by the command, in turns."""
    old = proxy.pid
    if number % 2:
        command = [proxy.stage.program, "upgrade", proxy.file]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise Broken(f"gradual upgrade failed: {done.stderr}")
    else:
        os.kill(old, signal.SIGUSR2)
    # The admin address is handed over with the listeners.
    changes.until(proxy, lambda: proxy.pid not in (None, old), "the new process answers")
    return [old]


def nginx(proxy, _number):
    """A new master with workers first, then the old one is told to finish."""
    old = proxy.pid
    os.kill(old, signal.SIGUSR2)
    changes.until(proxy, lambda: proxy.pid not in (None, old) and len(tree(proxy.pid)) == 3, "the new processes run")
    os.kill(old, signal.SIGQUIT)
    return [old]


def haproxy(proxy, _number):
    """The master starts itself anew, stays the same process, and has a new worker."""
    changes.until(proxy, lambda: changes.listens_to_signals(proxy.pid), "its master has started again")
    _, *old = tree(proxy.pid)
    os.kill(proxy.pid, signal.SIGUSR2)
    changes.until(proxy, lambda: set(tree(proxy.pid)[1:]) - set(old), "the new worker runs")
    return old
