"""Many responses of all sizes to slow readers: every byte of them is compared."""

import external

TITLE = "Integrity of bodies"
PROXIES = ("gradual",)
NEEDS = "tests/faults/integrity.rs"


def play(stage, report):
    words = stage.pick(["--count", "2000", "--max-size", "4000000"], ["--count", "100000"])
    external.run(stage, report, lambda: external.example("faults_integrity", stage.program, *words), NEEDS)
