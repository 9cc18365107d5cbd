"""Many responses of all sizes to slow readers: every byte of them is compared.

For gradual only: over all pairs of client and upstream protocols, some of which the others do not have.
"""

import json
import os
import subprocess

from stage import ROOT, Broken

TITLE = "Integrity of bodies"
PROXIES = ("gradual",)
# It is no part of what is measured, so it need not be fast.
EXAMPLE = "faults_integrity"


def play(stage, report):
    count, most = stage.pick((2_000, 4_000_000), (100_000, 100_000_000))
    subprocess.run(["cargo", "build", "--locked", "--quiet", "--example", EXAMPLE], cwd=ROOT, check=True)
    program = f"{os.environ.get('CARGO_TARGET_DIR', ROOT / 'target')}/debug/examples/{EXAMPLE}"
    command = [program, stage.program, "--json", "--count", count, "--max-size", most]
    stage.end(stage.start(command, EXAMPLE), None, 600)
    *problems, last = stage.said(EXAMPLE).splitlines() or [""]
    try:
        figures = json.loads(last)
    except ValueError:
        raise Broken(f"{EXAMPLE} gives no figures: {stage.said(EXAMPLE)}") from None
    report.add("gradual", "responses, the longest", f"{figures['responses']:,}, {figures['longest'] / 1e6:.1f} MB",
               f"{count:,}", figures["responses"] == count)
    report.add("gradual", "bytes in all", f"{figures['bytes'] / 1e6:,.0f} MB")
    for name, key in (("checksums that differ", "mismatches"), ("ends that are missing", "missing ends"),
                      ("failed", "failures")):
        report.add("gradual", name, figures[key], "0", figures[key] == 0)
    if any(figures[key] for key in ("mismatches", "missing ends", "failures")):
        print("\n".join(problems), flush=True)
