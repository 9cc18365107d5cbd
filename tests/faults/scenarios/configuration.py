"""Configuration files that are broken in every way, at the start and at a reload."""

import os
import shutil
import signal
import time

from proxies import Job, Proxy
from stage import eventually, memory

TITLE = "Corrupted configuration"
# HAProxy without its master process does not reload; it is started only.
PROXIES = ("gradual", "nginx", "haproxy")
NOBODY = 65534


def damage(file):
    """Every kind of damage: its name, and what does it to a file."""
    good = file.read_bytes()

    def sparse():
        with open(file, "wb") as out:
            out.truncate(1 << 30)

    def link(target):
        file.unlink()
        file.symlink_to(target)

    return {
        "empty": lambda: file.write_bytes(b""),
        "cut in half": lambda: file.write_bytes(good[: len(good) // 2]),
        "zeroed": lambda: file.write_bytes(bytes(len(good))),
        "1 GiB, sparse": sparse,
        "not UTF-8": lambda: file.write_bytes(good[:60] + b"\xff\xfe\x80" + good[60:]),
        "a link to nothing": lambda: link("nothing"),
        "a link to itself": lambda: link(file.name),
        "a link to a folder": lambda: link("."),
        "unreadable": lambda: file.chmod(0),
        "gone": file.unlink,
    }


def play(stage, report):
    versions = {"v1": [stage.backend("first", "v1")], "v2": [stage.backend("second", "v2")]}
    # Root can read everything, so the proxies run as somebody else.
    user = NOBODY if os.geteuid() == 0 else None
    if user is not None:
        lend_program(stage)
    for name in stage.proxies:
        proxy = Proxy(stage, name, Job(versions, health=False, user=user), start=False)
        if user is not None:
            shutil.chown(proxy.folder, user, user)
        starts(stage, report, proxy)
        if name != "haproxy":
            reloads(stage, report, proxy)


def lend_program(stage):
    """The program where everybody may run it."""
    copy = stage.folder / "gradual-program"
    shutil.copy(stage.program, copy)
    copy.chmod(0o755)
    stage.program = str(copy)


def restore(proxy):
    proxy.file.unlink(missing_ok=True)
    proxy.file.write_text(proxy.text())
    if proxy.job.user is not None:
        shutil.chown(proxy.file, proxy.job.user, proxy.job.user)


def starts(stage, report, proxy):
    """With a broken file it must end, with a code and a word about the file."""
    wrong, silent, count, longest = [], [], 0, 0.0
    for kind in damage(proxy.file):
        restore(proxy)
        damage(proxy.file)[kind]()
        out = stage.folder / f"{proxy.name}.out"
        out.unlink(missing_ok=True)
        began = time.monotonic()
        process = proxy.spawn()
        code = stage.end(process, None, 10)
        longest, count = max(longest, time.monotonic() - began), count + 1
        if code <= 0:
            wrong.append(kind)
        elif proxy.file.name not in stage.said(proxy.name):
            silent.append(kind)
    report.add(proxy.name, "start: refused with an exit code", f"{count - len(wrong)} of {count}{named(wrong)}", "all",
               not wrong)
    report.add(proxy.name, "start: the message names the file", f"{count - len(wrong) - len(silent)} of "
               f"{count - len(wrong)}{named(silent)}", "all", not silent)
    report.add(proxy.name, "start: longest time to the refusal", f"{longest:.1f} s")


def named(kinds):
    return f" (not: {', '.join(kinds)})" if kinds else ""


def reloads(stage, report, proxy):
    """A reload of a broken file must change nothing, and be counted."""
    restore(proxy)
    proxy.start()
    running = stage.load([proxy], rate=50, seconds=stage.pick(4, 8))
    unnoticed, count, before, most = [], 0, memory(proxy.process.pid), 0
    for kind in damage(proxy.file):
        restore(proxy)
        damage(proxy.file)[kind]()
        counted = failures(proxy)
        proxy.process.send_signal(signal.SIGHUP)
        count += 1
        if proxy.name == "gradual":
            eventually(lambda: failures(proxy) != counted, f"the failed reload is counted: {kind}")
        else:
            time.sleep(0.2)
        most = max(most, memory(proxy.process.pid))
        if proxy.get() != 200:
            unnoticed.append(kind)
    requests = running.wait()[proxy.name]
    lost = [each for each in requests if each.outcome != "ok"]
    report.add(proxy.name, "reload: the old one goes on", f"{count - len(unnoticed)} of {count}{named(unnoticed)}", "all",
               not unnoticed)
    report.add(proxy.name, "reload: failed requests meanwhile", f"{len(lost)} of {len(requests)}", "0", not lost)
    report.add(proxy.name, "reload: memory grew at most by", f"{max(0, most - before) / 1024:.1f} MiB", "64 MiB",
               most - before < 64 * 1024)


def failures(proxy):
    return proxy.metric("gradual_reloads_total", result="failure") if proxy.name == "gradual" else None
