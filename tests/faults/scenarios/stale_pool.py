"""Upstreams close their idle connections, unannounced, at about the moment at which they are used again."""

import figures
from proxies import Job, start_all

TITLE = "Stale pool"
PROXIES = ("gradual", "nginx", "haproxy")


def play(stage, report):
    backends = [stage.backend("first", "v1"), stage.backend("other", "v2")]
    proxies = start_all(stage, Job({"v1": backends[:1], "v2": backends[1:]}, health=False))
    plan = {"workers": 8, "pause": (0, 0.004)}
    control = stage.load(proxies, count=stage.pick(500, 2000), **plan).wait()
    for backend in backends:
        backend.tell(stale=[0, 0.004])
    before = [backend.tell() for backend in backends]
    gets = stage.load(proxies, count=stage.pick(1500, 10_000), **plan).wait()
    after = [backend.tell() for backend in backends]
    posts = stage.load(proxies, count=stage.pick(500, 2000), post=1.0, **plan).wait()
    arrived, _ = stage.delivered()
    for name in stage.proxies:
        made = sum(new[name]["connections"] - old[name]["connections"] for old, new in zip(before, after))
        report.add(name, "failed without the fault", figures.outcomes(control[name]), "0",
                   not figures.failed(control[name]))
        report.add(name, "failed GETs", figures.outcomes(gets[name]), "0", not figures.failed(gets[name]))
        report.add(name, "upstream connections that were closed meanwhile", f"about {made:,}")
        report.add(name, "failed POSTs, which nobody may repeat", figures.outcomes(posts[name]))
        twice = figures.delivered_twice(posts[name], arrived)
        report.add(name, "POSTs delivered twice", len(twice), "0", not twice)
