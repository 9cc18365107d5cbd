"""Every hundredth request meets a panic. Nothing that is sent can cause one, so a test build puts them in: a unit test."""

import re
import shutil

from stage import ROOT, Skipped

TITLE = "Panic in a handler"
PROXIES = ("gradual",)
TEST = "proxy::panics::tests::a_panic_in_every_hundredth_request_costs_these_and_no_other"


def play(stage, report):
    if not shutil.which("cargo"):
        raise Skipped("there is no cargo, and the program under test cannot be made to panic")
    command = ["cargo", "test", "--locked", "--lib", TEST, "--", "--exact", "--nocapture"]
    code = stage.end(stage.start(command, "panics", cwd=ROOT), None, 900)
    # The reports of the panics themselves stand around it.
    figure = re.search(r"\d+ requests .* panics, .*", (stage.folder / "panics.out").read_text(errors="replace"))
    report.add("gradual", "in a test build, in its own words", figure[0] if figure else f"exit code {code}",
               "each 500, or cut; no other fails", code == 0 and figure is not None)
    if code != 0 or not figure:
        print(stage.said("panics"), flush=True)
