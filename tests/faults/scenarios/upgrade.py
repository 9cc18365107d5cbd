"""The program is replaced by a new one, again and again, under the load of new connections."""

import external
from stage import Skipped

TITLE = "Binary upgrade"
PROXIES = ("gradual",)
NEEDS = "tests/e2e/checks_upgrade.py"


def play(stage, report):
    if not stage.options.full:
        raise Skipped("it is one of the checks of tests/e2e/run; the full form plays it")
    external.run(stage, report, ["tests/e2e/run", "upgrade"], NEEDS)
