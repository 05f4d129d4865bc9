"""The demo's report: one HTML file with every model's scores, failure modes, curves, and pictures of what changed."""

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from statistics import fmean

from jinja2 import Environment

from editcaption_mega.data import open_shards
from editcaption_mega.data.shards.reader import ShardReader
from editcaption_mega.evaluation.judge.rule_judge import RuleJudgement, judge
from editcaption_mega.evaluation.stats.intervals import bootstrap_interval, wilson_interval
from editcaption_mega.records.pair import FAILURE_MODES


@dataclass(frozen=True)
class Rate:
    """A share of pairs; `interval` is its 95 % Wilson interval."""

    hits: int
    total: int

    @property
    def share(self) -> float:
        return self.hits / self.total if self.total else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        return wilson_interval(self.hits, self.total)

    def to_json(self) -> dict:
        return {"hits": self.hits, "total": self.total, "share": self.share, "interval": list(self.interval)}


@dataclass(frozen=True)
class Scores:
    """Means of one model over all pairs, 1 .. 5; `interval` is the bootstrap's 95 % interval of the weighted score."""

    accuracy: float
    completeness: float
    clarity: float
    weighted: float
    interval: tuple[float, float]
    correct: Rate  # every primary change named exactly, and nothing else claimed
    failures: dict[str, Rate]  # failure mode -> pairs with at least one such error

    def to_json(self) -> dict:
        means = {name: getattr(self, name) for name in ("accuracy", "completeness", "clarity", "weighted")}
        failures = {mode: rate.to_json() for mode, rate in self.failures.items()}
        return means | {"interval": list(self.interval), "correct": self.correct.to_json(), "failures": failures}


def scores(judgements: Sequence[RuleJudgement]) -> Scores:
    weighted = [one.weighted for one in judgements]
    return Scores(
        accuracy=fmean(one.accuracy for one in judgements),
        completeness=fmean(one.completeness for one in judgements),
        clarity=fmean(one.clarity for one in judgements),
        weighted=fmean(weighted),
        interval=bootstrap_interval(weighted),
        correct=Rate(sum(one.correct for one in judgements), len(judgements)),
        failures={
            mode: Rate(sum(mode in one.failure_modes for one in judgements), len(judgements)) for mode in FAILURE_MODES
        },
    )


def judge_all(reader: ShardReader, instructions: dict[str, dict[str, str]]) -> dict[str, list[RuleJudgement]]:
    """instructions: model -> pair id -> text -> a judgement per pair in the order of the shards, for each model.

    Raises ValueError when a model's ids are not exactly those of the shards."""
    for model, texts in instructions.items():
        missing, extra = sorted(set(reader.ids) - set(texts)), sorted(set(texts) - set(reader.ids))
        if missing or extra:
            raise ValueError(
                f"instructions of {model!r} do not fit the shards: {len(missing)} pairs have none (first "
                f"{missing[:1]}), {len(extra)} are of unknown pairs (first {extra[:1]})"
            )
    truths = [reader.pair(i) for i in range(len(reader))]
    return {model: [judge(texts[pair.id], pair.changes) for pair in truths] for model, texts in instructions.items()}


def write_report(
    output: Path,
    shards: str | Path,
    instructions: dict[str, dict[str, str]],
    *,
    before: str,
    after: str,
    runs: dict[str, Path],
    facts: list[tuple[str, str]],
    shown: int = 24,
) -> dict:
    """Write `output` (HTML, self-contained) and beside it the numbers as JSON, which are returned.

    instructions: model -> pair id -> text. before, after: the models between which pairs were mended or broken.
    runs: name -> metrics.jsonl of each training run. facts: rows of "how this was made"."""
    reader = open_shards(shards)
    judged = judge_all(reader, instructions)
    models = {model: scores(judgements) for model, judgements in judged.items()}
    kinds = [reader.pair(i).edit_type for i in range(len(reader))]
    types = {
        kind: {
            model: Rate(sum(j.correct for j, k in zip(ones, kinds, strict=True) if k == kind), kinds.count(kind))
            for model, ones in judged.items()
        }
        for kind in sorted(set(kinds))
    }

    def cards(indices: list[int]) -> list[dict]:
        return [_card(reader, i, instructions, judged) for i in _spread(indices, kinds)[:shown]]

    everything = range(len(reader))
    mended = [i for i in everything if judged[after][i].correct and not judged[before][i].correct]
    broken = [i for i in everything if judged[before][i].correct and not judged[after][i].correct]
    rows = {name: [json.loads(line) for line in path.read_text("utf-8").splitlines()] for name, path in runs.items()}
    preference = {name: found for name, found in rows.items() if "reward_margin" in found[0]}
    template = (
        resources.files("editcaption_mega.evaluation.report").joinpath("templates/demo.html.j2").read_text("utf-8")
    )
    html = (
        Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
        .from_string(template)
        .render(
            models=models, types=types, modes=FAILURE_MODES, facts=facts, total_pairs=len(reader),
            before=before, after=after,
            changed=_change(models[before], models[after]),
            mended=cards(mended), broken=cards(broken), num_mended=len(mended), num_broken=len(broken),
            pairs=cards(list(everything)),
            losses=_curves({n: r for n, r in rows.items() if n not in preference}, "loss", "nats per response token"),
            margins=_curves(preference, "reward_margin", "reward of chosen - rejected") if preference else None,
            by_mode=_mode_curves(preference[after]) if after in preference else None,
        )
    )  # fmt: skip
    output.write_text(html, encoding="utf-8")
    numbers = {
        "pairs": len(reader),
        "models": {model: found.to_json() for model, found in models.items()},
        "types": {kind: {m: rate.to_json() for m, rate in row.items()} for kind, row in types.items()},
        "mended": len(mended),
        "broken": len(broken),
    }
    output.with_suffix(".json").write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    return numbers


def _change(before: Scores, after: Scores) -> dict[str, dict]:
    """Per failure mode: the relative change of its rate, and whether the two intervals are apart."""
    found = {}
    for mode in FAILURE_MODES:
        a, b = before.failures[mode], after.failures[mode]
        apart = b.interval[1] < a.interval[0] or a.interval[1] < b.interval[0]
        found[mode] = {"relative": b.share / a.share - 1 if a.hits else None, "apart": apart}
    return found


def _spread(indices: list[int], kinds: list[str]) -> list[int]:
    """The same indices, every edit type in turn, so that the first screen shows the breadth."""
    by_kind: dict[str, list[int]] = {}
    for i in indices:
        by_kind.setdefault(kinds[i], []).append(i)
    groups = list(by_kind.values())
    return [group[turn] for turn in range(max(map(len, groups), default=0)) for group in groups if turn < len(group)]


def _card(reader: ShardReader, i: int, instructions: dict, judged: dict) -> dict:
    sample = reader[i]
    texts = []
    for model, ones in judged.items():
        one = ones[i]
        modes = [mode for mode in FAILURE_MODES if mode in one.failure_modes]
        texts.append((model, instructions[model][sample.pair.id], one.correct, one.weighted, modes))
    return {
        "id": sample.pair.id,
        "type": sample.pair.edit_type,
        "category": sample.pair.category,
        "source": _data_url(sample.source_bytes),
        "target": _data_url(sample.target_bytes),
        "truth": sample.pair.instruction,
        "texts": texts,
    }


def _data_url(data: bytes) -> str:
    kind = "png" if data.startswith(b"\x89PNG") else "webp" if data[8:12] == b"WEBP" else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


COLOURS = ("#1f4e8c", "#c2571a", "#17734a", "#8a3b9b")


def _curves(runs: dict[str, list[dict]], key: str, label: str) -> str:
    """One line per run over its steps as a PNG data URL; the loss in logarithmic scale."""
    lines = {name: ([row["step"] for row in rows], [row[key] for row in rows]) for name, rows in runs.items()}
    return _plot(lines, label, logarithmic=key == "loss")


def _mode_curves(rows: list[dict]) -> str:
    """The reward margin of the pairs of each failure mode."""
    lines = {}
    for mode in FAILURE_MODES:
        found = [(row["step"], row[f"{mode}/reward_margin"]) for row in rows if f"{mode}/reward_margin" in row]
        if found:
            lines[mode] = tuple(map(list, zip(*found, strict=True)))
    return _plot(lines, "reward of chosen - rejected", logarithmic=False)


def _plot(lines: dict[str, tuple[list, list]], label: str, *, logarithmic: bool) -> str:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(5.6, 3.0), dpi=110)
    for colour, (name, (steps, values)) in zip(COLOURS, lines.items(), strict=False):
        window = max(1, len(values) // 40)
        smooth = [fmean(values[max(0, i - window) : i + 1]) for i in range(len(values))]
        axis.plot(steps, values, color=colour, linewidth=0.6, alpha=0.35)
        axis.plot(steps, smooth, color=colour, linewidth=1.8, label=name)
    axis.set_xlabel("optimizer step")
    axis.set_ylabel(label)
    if logarithmic:
        axis.set_yscale("log")
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight")
    plt.close(figure)
    return _data_url(buffer.getvalue())
