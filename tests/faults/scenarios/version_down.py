"""All upstreams of a version refuse connections: its keys fail, or, where that was asked for, move, and come back later."""

import figures
from proxies import Job, start_all

TITLE = "Whole version down"
PROXIES = ("gradual", "nginx", "haproxy")


def play(stage, report):
    backends = [stage.backend("first", "v1"), stage.backend("second", "v2")]
    versions = {"v1": backends[:1], "v2": backends[1:]}
    failing(stage, report, start_all(stage, Job(versions)), backends[1])
    backends[1].tell(mode="up")
    moving(stage, report, start_all(stage, Job(versions, remap=True)), backends[1])


def failing(stage, report, proxies, second):
    """What its clients get, and whether anybody moves."""
    plan = {"rate": 150, "post": 0.2}
    control = stage.load(proxies, seconds=stage.pick(2, 5), **plan).wait()
    second.tell(mode="refuse")
    down = stage.load(proxies, seconds=stage.pick(2, 10), **plan).wait()
    for name in stage.proxies:
        before = figures.versions_of(control[name])
        its = [each for each in down[name] if before.get(each.key) == "v2"]
        others = [each for each in down[name] if before.get(each.key) == "v1"]
        report.add(name, "failed without the fault", figures.outcomes(control[name]), "0",
                   not figures.failed(control[name]))
        report.add(name, "its clients get", figures.outcomes(its), "502 or 503",
                   all(each.outcome in ("502", "503") for each in its))
        took = [figures.milliseconds(its, share) for share in (0.5, 0.99)]
        report.add(name, "time to that: median, p99", f"{took[0]:.1f} ms, {took[1]:.1f} ms", "50 ms", took[1] < 50,
                   gate=False)
        moved = figures.moved(before, down[name])
        report.add(name, "keys that moved silently", len(moved), "0", not moved)
        report.add(name, "the other version's failures", figures.outcomes(others), "0", not figures.failed(others))


def moving(stage, report, proxies, second):
    """The same, where the keys shall move."""
    seconds = stage.pick(3, 8)
    before = {name: figures.versions_of(rows) for name, rows in stage.load(proxies, rate=400, seconds=1).wait().items()}
    load = stage.load(proxies, rate=150, seconds=2 * seconds + 1)
    load.wait_until(1)
    second.tell(mode="refuse")
    load.wait_until(1 + seconds)
    second.tell(mode="up")
    back = load.start + 1 + seconds
    for name, requests in load.wait().items():
        its = [each for each in requests if before[name].get(each.key) == "v2"]
        others = [each for each in requests if before[name].get(each.key) == "v1"]
        down = [each for each in its if load.start + 1 <= each.due < back]
        lost = figures.failed(down)
        report.add(name, "remap: failed until they moved", figures.outcomes(down))
        settled = max((each.due for each in lost), default=load.start + 1) - load.start - 1
        report.add(name, "remap: moved after", f"{settled:.1f} s", "2 s", settled < 2, gate=stage.options.full)
        late = [each for each in its if each.due >= back and each.version != "v2"]
        report.add(name, "remap: back after", f"{max((each.due - back for each in late), default=0):.1f} s", "3 s",
                   not any(each.due > back + 3 for each in late), gate=stage.options.full)
        strays = figures.moved(before[name], others)
        report.add(name, "remap: keys of the other version that moved", len(strays), "0", not strays)
