"""How exactly keys are split, and which of them move when a share grows: real requests, each key once at each share."""

import math

import figures
from proxies import Job, start_all

TITLE = "Split"
PROXIES = ("gradual", "nginx", "haproxy")
SHARES = (1, 10, 11, 50)


def play(stage, report):
    versions = {"v1": [stage.backend("first", "v1")], "v2": [stage.backend("second", "v2")]}
    proxies = start_all(stage, Job(versions, sites={f"p{share}": share for share in SHARES}, health=False))
    keys = [f"user-{number}" for number in range(stage.pick(1000, 10_000))]
    reached = {}
    for share in SHARES:
        load = stage.load(proxies, workers=8, count=len(keys), keys=keys, host=f"p{share}.test", size=64)
        reached[share] = load.wait()
    for name in stage.proxies:
        for share in SHARES:
            requests, part = reached[share][name], share / 100
            report.add(name, f"failed at {share} %", figures.outcomes(requests), "0", not figures.failed(requests))
            got = figures.versions_of(requests)
            count = sum(version == "v2" for version in got.values())
            sigma = (count - len(got) * part) / math.sqrt(len(got) * part * (1 - part))
            report.add(name, f"at {share} %", f"{count / len(got):.2%} ({sigma:+.1f} σ)", "within 4 σ", abs(sigma) <= 4)
        ten, eleven = (figures.versions_of(reached[share][name]) for share in (10, 11))
        changed = {key for key in keys if ten.get(key) != eleven.get(key)}
        left = [key for key in changed if ten.get(key) == "v2"]
        report.add(name, "keys moved from 10 to 11 %", f"{len(changed) / len(keys):.2%}, {len(left)} of them the wrong way",
                   "about 1 %, one way", not left and len(changed) / len(keys) < 0.03)
