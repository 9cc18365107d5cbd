"""`gradual demo`: what it prints is pasted into a shell, as a visitor would."""

import re
import signal
import subprocess
import urllib.request
from pathlib import Path

from harness import GRADUAL, check, eventually, expect, expect_equal


def paste(command):
    """Run one printed line in a shell; returns what it wrote."""
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=30)
    expect_equal(done.returncode, 0, f"{command}\n{done.stderr}")
    return done.stdout


def lines_with(transcript, *words):
    """The printed lines that contain every word."""
    found = [line for line in transcript.splitlines() if all(word in line for word in words)]
    expect(found, f"no line with {words} in\n{transcript}")
    return found


def draws(command):
    """How many of the draws reached each version."""
    counts = {version: int(count) for count, version in re.findall(r"(\d+) .*?\b(v[12])\b", paste(command))}
    expect_equal(sum(counts.values()), 20, f"the counts {counts}")
    return counts


@check
def the_demo_shows_what_it_promises(world):
    out = world.folder / "demo.out"
    process = world.processes.start([GRADUAL, "demo"], out, cwd=world.folder)
    eventually(lambda: "Ctrl-C" in out.read_text(), "the demo prints what to try")
    transcript = out.read_text()
    file = Path(re.search(r"\S+/gradual\.toml", transcript)[0])
    metrics = re.search(r"http://127\.0\.0\.1:\d+(?=/api/v1/status)", transcript)[0] + "/metrics"
    split = lines_with(transcript, "curl", "uniq -c")[0]
    expect(draws(split).get("v1", 0) > 10, "most draws should reach v1")

    sticky = {paste(line) for line in lines_with(transcript, "curl", "Version-Key")}
    sticky |= {paste(lines_with(transcript, "curl", "Version-Key")[0])}
    expect(len(sticky) == 1 and "reason=key" in sticky.pop(), sticky)
    override = lines_with(transcript, "curl", "Version-Overrides")[0]
    expect('tag="v2";reason=override' in paste(override), paste(override))
    assets = {paste(line).strip() for line in lines_with(transcript, "curl", "/assets/")}
    expect_equal(assets, {"200", "404"}, "the assets")
    explained = [line for line in transcript.splitlines() if " explain " in line and str(file) in line]
    expect(explained and "demo" in paste(explained[0]), transcript)

    def percentages():
        text = urllib.request.urlopen(metrics, timeout=5).read().decode()
        return sorted(re.findall(r"^gradual_deployment_percentage\{.*\} (\S+)$", text, re.MULTILINE))

    deployed = paste(lines_with(transcript, "versions deploy")[0])
    expect("40% of all keys move, which is the least possible" in deployed, deployed)
    expect_equal(percentages(), ["50", "50"], "the split when the command has returned")
    draws(split)
    listed = paste(lines_with(transcript, "deployments list")[0])
    expect("half and half" in listed, listed)
    paste(lines_with(transcript, "rollback")[0])
    expect_equal(percentages(), ["100"], "the split after the rollback")

    expect_equal(world.processes.end(process, signal.SIGINT), 0, "exit code")
    expect(not file.parent.exists(), f"{file.parent} is still there")
