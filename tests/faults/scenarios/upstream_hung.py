"""A version's upstream accepts requests and never answers; then its listen backlog is full, so that it does not even accept."""

import figures
from proxies import Job, start_all

TITLE = "Upstream hung"
PROXIES = ("gradual", "nginx", "haproxy")
DEADLINE = 1.0


def play(stage, report):
    good, bad = stage.backend("good", "v1"), stage.backend("bad", "v2")
    # Without probes: with them the version is soon known to be down, and nobody waits for the deadline any more.
    job = Job({"v1": [good], "v2": [bad]}, health=False, retries=0, connect=DEADLINE, response=DEADLINE)
    proxies = start_all(stage, job)
    learned = stage.load(proxies, rate=400, seconds=1).wait()
    keys = {version: {name: [key for key, has in figures.versions_of(rows).items() if has == version]
                      for name, rows in learned.items()} for version in ("v1", "v2")}

    def both(seconds):
        slow = stage.prepare(proxies, rate=20, seconds=seconds, keys=keys["v2"])
        steady = stage.prepare(proxies, rate=150, seconds=seconds, keys=keys["v1"]).begin()
        slow.begin(steady.start)
        return steady.wait(), slow.wait()

    control, _ = both(stage.pick(2, 8))
    bad.tell(mode="hang")
    steady, hung = both(stage.pick(3, 10))
    bad.tell(mode="full")
    beside, full = both(stage.pick(3, 10))
    for name in stage.proxies:
        judge(stage, report, name, (control[name], steady[name], beside[name]), (hung[name], full[name]))


def judge(stage, report, name, other, faults):
    control, beside_hung, beside_full = other
    for what, answers, wanted in zip(("hung", "backlog full"), faults, ("504", "503 or 504")):
        report.add(name, f"{what}: answers", figures.outcomes(answers), f"all {wanted}",
                   all(each.outcome in wanted.split(" or ") for each in answers))
        took = [figures.milliseconds(answers, share) for share in (0.5, 1)]
        report.add(name, f"{what}: time to the answer", f"{took[0]:.0f} ms, at most {took[1]:.0f}",
                   f"deadline {DEADLINE * 1000:.0f} ± 100 ms", abs(took[0] - DEADLINE * 1000) <= 100,
                   gate=stage.options.full)
    for what, requests in (("hung", beside_hung), ("backlog full", beside_full)):
        report.add(name, f"{what}: the other version's failures", figures.outcomes(requests), "0",
                   not figures.failed(requests))
        report.add(name, f"{what}: the other version's p99", figures.from_to(figures.p99(control), figures.p99(requests)),
                   figures.NO_SLOWER, figures.no_slower(control, requests), gate=False)
