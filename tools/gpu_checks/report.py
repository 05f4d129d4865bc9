"""The check's results as JSON, as one table, and as the page docs/performance.md of all that were kept."""

import json
from pathlib import Path
from typing import Any

Report = dict[str, Any]  # machine, on_gpu, date, commit, seconds, parts: [{part, seconds, error, figures}]
_UNITS = (("FLOP/s", 1e12, "TFLOP/s"), ("B/s", 1e12, "TB/s"))


def is_part(part: Any) -> bool:
    """Whether it has what `problems`, `markdown` and `page` read of a part."""
    keys = {"name", "value", "unit", "note", "verdict"}
    return (
        isinstance(part, dict)
        and isinstance(part.get("part"), str)
        and isinstance(part.get("seconds"), int | float)
        and "error" in part
        and isinstance(part.get("figures"), list)
        and all(isinstance(figure, dict) and keys <= figure.keys() for figure in part["figures"])
    )


def kept_report(path: Path) -> Report:
    """A report that was kept. Raises ValueError for a file that is none."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))  # NaN, too, is a figure
    except ValueError:
        report = None
    keys = {"machine", "on_gpu", "date", "commit", "seconds", "parts"}
    known = isinstance(report, dict) and keys <= report.keys()
    if not known or not isinstance(report["parts"], list) or not all(map(is_part, report["parts"])):
        raise ValueError(f"{path} is no report of the GPU check: remove it, or make it again with --keep")
    return report


def problems(report: Report) -> list[str]:
    """What is wrong on the machine, a line each: parts that did not end, and figures that are WRONG."""
    lines = [f"{part['part']}: {part['error']}" for part in report["parts"] if part["error"]]
    for part in report["parts"]:
        lines += [
            f"{part['part']}: {figure['name']} is {shown(figure)}, {figure['verdict']}"
            for figure in part["figures"]
            if figure["verdict"].startswith("WRONG")
        ]
    return lines


def shown(figure: dict[str, Any]) -> str:
    """The value with its unit, in a few digits."""
    value, unit = figure["value"], figure["unit"]
    if isinstance(value, str):
        return value
    for name, scale, large in _UNITS:
        if unit == name:
            value, unit = value / scale, large
    digits = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{digits} {unit}".strip()


def markdown(report: Report) -> str:
    """One table of everything."""
    lines = [
        f"# GPU check: {report['machine']}",
        "",
        f"{report['date']}, commit {report['commit']}, {report['seconds']:.0f} s.",
        *([] if report["on_gpu"] else ["", "There is no GPU here: the same code at small sizes; times mean nothing."]),
        "",
        "| part | figure | value | | |",
        "|---|---|---|---|---|",
    ]
    for part in report["parts"]:
        for figure in part["figures"]:
            cells = (part["part"], figure["name"], shown(figure), figure["verdict"], figure["note"])
            lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
        if part["error"]:
            lines.append(f"| {part['part']} | did not end | | FAILED | {_cell(part['error'])} |")
    return "\n".join(lines) + "\n"


def page(folder: Path) -> str:
    """docs/performance.md from the reports in `folder`: what GPUs did, and what nobody has measured."""
    reports = [kept_report(path) for path in sorted(folder.glob("*.json"))]
    parts = [part for report in reports for part in report["parts"]]
    names = dict.fromkeys((part["part"], figure["name"]) for part in parts for figure in part["figures"])
    cards = sorted((r for r in reports if r["on_gpu"]), key=lambda r: r["date"])
    lines = [
        "# Performance",
        "",
        "What `make gpu-check` measured on one GPU, made from the reports in [measurements](measurements) by",
        "`python tools/gpu_check.py --page docs/performance.md`. Shares are of what the same card did in the same run:",
        "its copy bandwidth, and its bf16 product of 8,192 cubed.",
        "",
        "A machine needs PyTorch 2.11 or later and a CUDA compiler, and no network: `make gpu-wheels` fetches",
        "what it lacks into `wheels/` beforehand. `make gpu-check GPU_CHECK_ARGS=--keep` then measures within six",
        "minutes, and keeps the report. Without a GPU it executes the same code at small sizes. Each part has its",
        "share of those minutes: one that took more seconds than it had says how many, and what it would have",
        "measured is not known yet.",
        "",
    ]
    if not cards:
        lines += [
            "**No GPU has run this yet.** The figures below are those that the check makes; each says so until it is",
            "measured. What is planned for whole jobs is in [configurations.md](configurations.md).",
            "",
        ]
    heads = [f"{card['machine']}, {card['date']}" for card in cards] or ["on a GPU"]
    lines += [f"| part | figure | {' | '.join(heads)} |", "|---|---|" + "---|" * len(heads)]
    for part, name in names:
        cells = [_measured(card, part, name) for card in cards] or ["not measured yet"]
        lines.append(f"| {part} | {_cell(name)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _measured(report: Report, part: str, name: str) -> str:
    for measured in report["parts"]:
        for figure in measured["figures"]:
            if (measured["part"], figure["name"]) == (part, name):
                verdict = f" ({figure['verdict']})" if figure["verdict"] else ""
                return _cell(shown(figure) + verdict)
        if measured["part"] == part and measured["error"]:
            why = measured["error"]
            why = f"the part took {why}" if why.startswith("more than") else f"the part failed ({why})"
            return _cell(f"not measured: {why}")
    return "not measured"


def _cell(text: str) -> str:
    return " ".join(str(text).replace("|", "/").split())
