"""Figures: collected, judged, printed, and written into the document."""

import json
import platform
from dataclasses import dataclass, field
from pathlib import Path

NAMES = {"gradual": "gradual", "nginx": "nginx", "haproxy": "HAProxy"}
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


@dataclass
class Figure:
    """One figure of a scenario: what each proxy showed, and the bar."""

    name: str
    bar: str
    # Whether missing the bar fails the run.
    gate: bool
    values: dict = field(default_factory=dict)
    held: dict = field(default_factory=dict)


class Report:
    """The figures of one scenario."""

    def __init__(self, word, title):
        self.word, self.title = word, title
        self.figures, self.skipped, self.broken = {}, "", ""

    def add(self, proxy, name, value, bar="", held=None, gate=True):
        """A figure of a proxy. With a bar, whether it is held; a bar that is no gate is shown, and fails nothing."""
        figure = self.figures.setdefault(name, Figure(name, bar, gate))
        figure.values[proxy] = str(value)
        if held is not None:
            figure.held[proxy] = bool(held)

    def misses(self, gates_only=False):
        """The figures at which gradual misses a bar."""
        return [each for each in self.figures.values()
                if each.held.get("gradual") is False and (each.gate or not gates_only)]

    def failed(self):
        return bool(self.broken or self.misses(gates_only=True))

    def lines(self):
        """One line for each proxy."""
        if self.skipped or self.broken:
            return [f"{self.title}: " + (f"skipped: {self.skipped}" if self.skipped else f"BROKEN: {self.broken}")]
        proxies = dict.fromkeys(proxy for figure in self.figures.values() for proxy in figure.values)
        lines = []
        for proxy in proxies:
            texts = []
            for figure in self.figures.values():
                if proxy in figure.values:
                    text = f"{figure.name}: {figure.values[proxy]}"
                    if figure.held.get(proxy) is False:
                        text += f" [{'MISSED' if figure.gate else 'missed, no gate'}: {figure.bar}]"
                    texts.append(text)
            lines.append(f"{self.title} | {NAMES[proxy]} | {'; '.join(texts)}")
        return lines

    def data(self):
        figures = [vars(figure) for figure in self.figures.values()]
        return {"scenario": self.word, "title": self.title, "skipped": self.skipped, "broken": self.broken,
                "figures": figures}


def machine():
    """The facts about this machine that figures depend on."""
    model = next((line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), "unknown processor")
    cores = sum(line.startswith("processor") for line in Path("/proc/cpuinfo").read_text().splitlines())
    kernel = ".".join(platform.release().split(".")[:2])
    return f"{cores} cores ({model}), Linux {kernel}"


def table(reports, proxies):
    """All figures as one Markdown table. What gradual misses is said in its cell."""
    lines = ["| scenario | figure | bar | " + " | ".join(NAMES[proxy] for proxy in proxies) + " |",
             "|---|---|---" + "|---:" * len(proxies) + "|"]
    for report in reports:
        title = report.title
        if report.skipped or report.broken:
            said = f"skipped: {report.skipped}" if report.skipped else f"broken: {report.broken.splitlines()[0]}"
            lines.append(f"| {title} | {cell(said)} |" + " |" * (1 + len(proxies)))
        for figure in report.figures.values():
            cells = [title, figure.name, figure.bar]
            for proxy in proxies:
                text = figure.values.get(proxy, "")
                missed = proxy == "gradual" and figure.held.get(proxy) is False
                cells.append(f"{text} **(missed)**" if missed else text)
            lines.append("| " + " | ".join(map(cell, cells)) + " |")
            title = ""
    return "\n".join(lines)


def cell(text):
    return text.replace("|", "\\|").replace("\n", " ")


def markdown(reports, options, versions, date):
    """What stands between the markers of the document."""
    missed = [f"{report.title.lower()}: {figure.name} is {figure.values['gradual']} (bar: {figure.bar})"
              for report in reports for figure in report.misses()]
    misses = "Missed bars: " + "; ".join(missed) + "." if missed else "No bar was missed in this run."
    return "\n".join([
        f"`{options.command}` on {date}; {'; '.join(versions.values())}; {machine()}.", "",
        table(reports, options.proxies), "", misses])


def update(file, text):
    """Put the text between the markers of a document."""
    document = file.read_text()
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"faults: {file} has no {BEGIN} … {END}")
    file.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


def as_json(reports, versions):
    return json.dumps({"versions": versions, "machine": machine(), "scenarios": [each.data() for each in reports]},
                      indent=1) + "\n"
