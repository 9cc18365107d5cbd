"""Plays fault scenarios and prints their figures. Started by `run` beside it."""

import argparse
import datetime
import importlib
import os
import resource
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path

from proxies import KINDS, version_of
from report import Report, as_json, markdown, table, update
from stage import Broken, Skipped, Stage

# In the order in which they are played. Each is a module of `scenarios` with a TITLE, the PROXIES for which it has a
# meaning, and a function `play(stage, report)`.
SCENARIOS = ["upstream_killed", "stale_pool", "upstream_hung", "flapping", "version_down", "split", "descriptors",
             "memory_idle", "memory_slow", "stalled_input", "client_leaves", "shutdown", "log_full", "configuration", "clock",
             "soak", "panics", "reload_storm", "integrity", "upgrade"]


def arguments():
    parser = argparse.ArgumentParser(
        prog="tests/faults/run", description="Fault scenarios: figures of gradual beside those of nginx and HAProxy.")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--short", dest="full", action="store_false", default=False, help="the form of CI, about 4 minutes (default)")
    form.add_argument("--full", action="store_true", help="the form of the document, about 12 minutes")
    parser.add_argument("--peers", default="nginx,haproxy", metavar="NAMES", help='default: %(default)s; "" for none')
    parser.add_argument("--soak", type=int, metavar="SECONDS", help="default: 20, in the full form 90")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every figure")
    parser.add_argument("--markdown", action="store_true", help="print the table as docs/reliability.md has it")
    parser.add_argument("--update", type=Path, metavar="FILE", help="put that table between the markers of a document")
    parser.add_argument("words", nargs="*", metavar="WORD", help="only scenarios whose names contain one of these")
    options = parser.parse_args()
    peers = [name for name in options.peers.split(",") if name]
    for name in peers:
        if name not in KINDS or name == "gradual":
            parser.error(f"no peer {name}; there are nginx and haproxy")
        if not shutil.which(name):
            parser.error(f"{name} is not installed; leave it out with --peers")
    options.proxies = ["gradual", *peers]
    options.gradual = os.environ["GRADUAL"]
    form = ["--full" if options.full else "--short", *(["--soak", str(options.soak)] if options.soak else [])]
    options.command = " ".join(["tests/faults/run", *form, *options.words])
    options.soak = options.soak or (90 if options.full else 20)
    options.scenarios = [name for name in SCENARIOS
                         if not options.words or any(word in name for word in options.words)]
    if not options.scenarios:
        parser.error(f"no scenario is called that; there are {', '.join(SCENARIOS)}")
    return options


def play(name, options):
    """Play one scenario, end what it has started, and return its report."""
    module = importlib.import_module(f"scenarios.{name}")
    report = Report(name, module.TITLE)
    try:
        with Stage(options, [proxy for proxy in options.proxies if proxy in module.PROXIES]) as stage:
            module.play(stage, report)
    except Skipped as skipped:
        report.skipped = str(skipped)
    except Broken as broken:
        report.broken = str(broken)
    except Exception:
        report.broken = traceback.format_exc()
    return report


def main():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options = arguments()
    versions = {name: version_of(name, options) for name in options.proxies}
    print("; ".join(versions.values()), flush=True)
    reports, started = [], time.monotonic()
    for name in options.scenarios:
        began = time.monotonic()
        report = play(name, options)
        reports.append(report)
        print("\n".join(report.lines()) + f"\n  ({time.monotonic() - began:.0f} s)", flush=True)
    if options.markdown or options.update:
        text = markdown(reports, options, versions, datetime.date.today().isoformat())
        if options.markdown:
            print(f"\n{text}")
        if options.update:
            update(options.update, text)
    else:
        print(f"\n{table(reports, options.proxies)}")
    if options.json:
        options.json.write_text(as_json(reports, versions))
    failed = [report.title for report in reports if report.failed()]
    print(f"\n{len(reports)} scenarios in {time.monotonic() - started:.0f} s; "
          + (f"gates missed: {', '.join(failed)}" if failed else "every gate is held"))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
