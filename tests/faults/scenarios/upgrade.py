"""The program is replaced by a new one, again and again, under the load of new connections."""

import external

TITLE = "Binary upgrade"
PROXIES = ("gradual",)
NEEDS = "tests/e2e/checks_upgrade.py"


def play(stage, report):
    external.run(stage, report, ["tests/e2e/run", "upgrade"], NEEDS)
