"""One of a version's two upstreams is killed under load, and is there again five seconds later."""

import time

import figures
from proxies import Job, start_all

TITLE = "Upstream killed under load"
PROXIES = ("gradual", "nginx", "haproxy")


def play(stage, report):
    first, second = (stage.backend(name, "v1", delay=0.1) for name in ("first", "second"))
    other = stage.backend("other", "v2", delay=0.1)
    proxies = start_all(stage, Job({"v1": [first, second], "v2": [other]}))
    plan = {"rate": stage.pick(150, 250), "post": 0.3}
    control = stage.load(proxies, seconds=stage.pick(2, 5), **plan).wait()
    load = stage.load(proxies, seconds=stage.pick(9, 12), **plan)
    load.wait_until(1.5)
    first.kill()
    killed = time.monotonic()
    arrived, answered = stage.delivered()
    load.wait_until(killed - load.start + 5)
    first.start()
    restarted = time.monotonic()
    results = load.wait()
    for proxy in proxies:
        judge(report, proxy.name, control[proxy.name], results[proxy.name], restarted,
              (stage.delivered()[0], arrived, answered))


def judge(report, name, control, requests, restarted, journals):
    later, arrived, answered = journals
    # What had reached it whole and was not answered: the journal says so, whatever became of it.
    in_flight = {identity for identity, names in arrived.items() if "first" in names} - answered.keys()
    in_flight &= {each.identity for each in requests}
    lost = figures.failed(requests)
    report.add(name, "failed without the fault", figures.outcomes(control), "0", not figures.failed(control))
    report.add(name, "failed", figures.outcomes(requests), "at most those in flight at the kill",
               len(lost) <= len(in_flight))
    report.add(name, "in flight to it at the kill", len(in_flight))
    gets = sum(each.method == "GET" for each in lost)
    report.add(name, "GETs among the failed, which could be sent again", gets, "0", not gets)
    report.add(name, "POSTs delivered twice", len(figures.delivered_twice(requests, later)), "0",
               not figures.delivered_twice(requests, later))
    keys = figures.moved(figures.versions_of(control), requests)
    report.add(name, "keys that changed version", len(keys), "0", not keys)
    pair = [[each for each in some if figures.versions_of(control).get(each.key) == "v1"] for some in (control, requests)]
    gaps = [f"{figures.longest_gap(some):.0f} ms" for some in pair]
    report.add(name, "longest gap in the version's answers", figures.from_to(*gaps))
    back = [each.due + each.took - restarted for each in requests if each.backend == "first" and each.due > restarted]
    report.add(name, "used again after its restart", f"{min(back):.1f} s" if back else "never", "5 s",
               back and min(back) < 5, gate=False)
