"""Hundreds of reloads under load, of files that are right, wrong, cut and empty."""

import external

TITLE = "Reload storm"
PROXIES = ("gradual",)
NEEDS = "tests/faults/reload_storm.py"


def play(stage, report):
    external.run(stage, report, external.python(NEEDS, *stage.pick(["--count", "100"], ["--count", "1000"])), NEEDS)
