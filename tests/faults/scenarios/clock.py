"""The wall clock jumps by an hour and by a day, forth and back, under load; the monotonic clock goes on, as it really does."""

import json
from pathlib import Path

import figures
from proxies import Job, start_all
from stage import Broken, Skipped

TITLE = "Clock jumps"
PROXIES = ("gradual", "nginx", "haproxy")
DEADLINE = 1.0
JUMPS = ("+1h", "+0", "-1h", "+1d", "-1d", "+0")


def play(stage, report):
    library = next(iter(Path("/usr/lib").glob("**/faketime/libfaketimeMT.so.1")), None)
    if library is None:
        raise Skipped("libfaketime is not installed")
    versions = {"v1": [stage.backend("first", "v1")], "v2": [stage.backend("second", "v2")]}
    clock = stage.folder / "clock"
    clock.write_text("+0\n")
    environment = {"LD_PRELOAD": str(library), "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1",
                   "DONT_FAKE_MONOTONIC": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    log = stage.folder / "access.log"
    # In one log, whose times tell whether the clock really jumped; the peers' lines in it are not read.
    proxies = start_all(stage, Job(versions, response=DEADLINE, environment=environment, log=str(log)))
    step = stage.pick(0.7, 3)
    control, _ = run(stage, proxies, 2, lambda load: None)

    def jump(load):
        for number, offset in enumerate(JUMPS):
            load.wait_until((number + 0.5) * step)
            temporary = clock.with_suffix(".new")
            temporary.write_text(f"{offset}\n")
            temporary.rename(clock)

    results, slow = run(stage, proxies, step * (len(JUMPS) + 1), jump)
    report.add("gradual", "jumps, by the times in its access log", f"{days(log):.1f} days", "2 days", days(log) > 1.9)
    for name in stage.proxies:
        report.add(name, "failed without the fault", figures.outcomes(control[name]), "0",
                   not figures.failed(control[name]))
        report.add(name, "failed", figures.outcomes(results[name]), "0", not figures.failed(results[name]))
        took = [figures.milliseconds(slow[name], share) for share in (0, 0.5, 1)]
        right = all(each.outcome == "504" for each in slow[name]) and took[0] >= DEADLINE * 1000 - 100
        report.add(name, "requests that meet their deadline", f"{figures.outcomes(slow[name])}; after "
                   f"{took[0]:.0f}, {took[1]:.0f}, {took[2]:.0f} ms (least, median, most)",
                   f"all 504, none before {DEADLINE * 1000:.0f} - 100 ms", right)


def run(stage, proxies, seconds, during):
    """Requests that are answered at once, and a few that are not answered in time."""
    slow = stage.prepare(proxies, rate=10, seconds=seconds, path="/delay/5")
    load = stage.prepare(proxies, rate=100, seconds=seconds).begin()
    slow.begin(load.start)
    during(load)
    return load.wait(), slow.wait()


def days(log):
    """What lies between the earliest and the latest time in gradual's access log."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.startswith('{"EventTimestampMs"')]
    times = [json.loads(line)["EventTimestampMs"] for line in lines]
    if not times:
        raise Broken("the access log is empty")
    return (max(times) - min(times)) / 86_400_000
