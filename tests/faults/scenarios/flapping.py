"""One of a version's two upstreams answers for a second, closes every connection for the next second, and so on."""

import figures
from proxies import Job, start_all

TITLE = "Flapping upstream"
PROXIES = ("gradual", "nginx", "haproxy")


def play(stage, report):
    flapping, steady = stage.backend("flapping", "v1"), stage.backend("steady", "v1")
    other = stage.backend("other", "v2")
    proxies = start_all(stage, Job({"v1": [flapping, steady], "v2": [other]}))
    seconds, tail, plan = stage.pick(6, 60), stage.pick(5, 15), {"rate": 150, "post": 0.2}
    control = stage.load(proxies, seconds=stage.pick(2, 5), **plan).wait()
    before = flapping.tell()
    load = stage.load(proxies, seconds=seconds + tail, **plan)
    for second in range(1, seconds, 2):
        load.wait_until(second)
        flapping.tell(mode="close")
        load.wait_until(second + 1)
        ended = load.start + second + 1
        flapping.tell(mode="up")
    after = flapping.tell()
    results = load.wait()
    arrived, _ = stage.delivered()
    for name in stage.proxies:
        during = [each for each in results[name] if each.due < ended]
        gets = [each for each in during if each.method == "GET"]
        asked = sum(figures.versions_of(control[name]).get(each.key) == "v1" for each in during)
        connections = after[name]["connections"] - before[name]["connections"]
        report.add(name, "failed without the fault", figures.outcomes(control[name]), "0",
                   not figures.failed(control[name]))
        report.add(name, "failed GETs while it flapped", figures.outcomes(gets), "0", not figures.failed(gets))
        report.add(name, "failed of all", f"{len(figures.failed(during)) / len(during):.2%}")
        report.add(name, "connections to it, probes included", f"{connections / seconds:.1f}/s",
                   f"fewer than the version's requests, {asked / seconds:.0f}/s", connections < asked)
        twice = figures.delivered_twice(results[name], arrived)
        report.add(name, "POSTs delivered twice", len(twice), "0", not twice)
        late = [each.due + each.took - ended for each in figures.failed(results[name]) if each.due >= ended]
        report.add(name, "last failure after its end", f"{max(late, default=0):.1f} s", "5 s", max(late, default=0) < 5)
        back = [each.due - ended for each in results[name] if each.backend == "flapping" and each.due >= ended]
        report.add(name, "used again after its end", f"{min(back):.1f} s" if back else f"not in {tail} s", "5 s",
                   back and min(back) < 5, gate=stage.options.full)
        full = restored(results[name], ended, tail)
        report.add(name, "a quarter of its version's requests after", f"{full:.1f} s" if full else f"not in {tail} s", "5 s",
                   full is not None and full < 5, gate=False)
    count = proxies[0].metric
    retries = (count("gradual_upstream_retries_total") or 0) - (count("gradual_upstream_retries_total", result="budget") or 0)
    most = len(results["gradual"]) * 0.2 + 10 * (seconds + tail)
    report.add("gradual", "requests that were sent again", f"{retries:.0f}", "20 % and 10/s", retries <= most)
    report.add("gradual", "times it was taken out", f"{count('gradual_upstream_ejections_total') or 0:.0f}")


def restored(requests, ended, tail):
    """The seconds until it answers at least a quarter of its version's requests again, over half a second; None: never."""
    answers = [(each.due - ended, each.backend) for each in requests if each.version == "v1" and each.due >= ended]
    for tenth in range(int(tail * 10)):
        window = [backend for at, backend in answers if tenth / 10 <= at < tenth / 10 + 0.5]
        if window and window.count("flapping") >= len(window) / 4:
            return tenth / 10 + 0.5
    return None
