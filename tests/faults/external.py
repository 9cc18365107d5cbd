"""Scenarios that are programs of their own: run, and taken at their word."""

import os
import subprocess
import sys

from stage import ROOT, Skipped


def run(stage, report, command, needs, patience=600):
    """Run a program of this project with GRADUAL set. Its last line is the figure; exit code 0 means that its bars are held.

    The command is a list of words, or what makes it, where something has to be built first.
    """
    if not (ROOT / needs).exists():
        raise Skipped(f"there is no {needs}")
    process = stage.start(command() if callable(command) else command, "external", cwd=ROOT, env=os.environ | {"GRADUAL": stage.options.gradual})
    code = stage.end(process, None, patience)
    lines = [line for line in stage.said("external").splitlines() if line.strip()]
    report.add("gradual", "in its own words", lines[-1] if lines else f"exit code {code}", "its own, see there", code == 0)
    if code != 0:
        print(stage.said("external"), flush=True)


def python(script, *words):
    return [sys.executable, "-B", ROOT / script, *words]


def example(name, *words):
    """The command of one of cargo's examples, built if need be. It is no part of what is measured, so it need not be fast."""
    subprocess.run(["cargo", "build", "--locked", "--quiet", "--example", name], cwd=ROOT, check=True)
    target = os.environ.get("CARGO_TARGET_DIR", ROOT / "target")
    return [f"{target}/debug/examples/{name}", *words]
