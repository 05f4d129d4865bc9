"""The demo's report: one HTML file with the pictures, the truth, what each model wrote, and the curves."""

import base64
import io
import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from jinja2 import Environment

from editcaption_mega.data import open_shards

from .named_changes import named_changes
from .statistics import wilson_interval


@dataclass(frozen=True)
class Tally:
    """How many of some changes were named; `interval` is the 95 % Wilson interval of the share."""

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


def judge(shards: str | Path, instructions: dict[str, dict[str, str]]) -> dict:
    """Count named primary changes. instructions: model -> pair id -> text; every pair needs every model's text.

    Returns {"models": {model: Tally}, "types": {edit type: {model: Tally}}, "pairs": [...]}. Raises ValueError when a
    model's ids are not exactly those of the shards."""
    reader = open_shards(shards)
    for model, texts in instructions.items():
        missing, extra = sorted(set(reader.ids) - set(texts)), sorted(set(texts) - set(reader.ids))
        if missing or extra:
            raise ValueError(
                f"instructions of {model!r} do not fit the shards: {len(missing)} pairs have none (first "
                f"{missing[:1]}), {len(extra)} are of unknown pairs (first {extra[:1]})"
            )
    pairs, counts = [], {}
    for i in range(len(reader)):
        sample = reader[i]
        verdicts = {}
        for model, texts in instructions.items():
            named = named_changes(texts[sample.pair.id], sample.pair.changes)
            verdicts[model] = named
            for group in ("", sample.pair.edit_type):
                hits, total = counts.get((group, model), (0, 0))
                counts[group, model] = (hits + sum(change.named for change in named), total + len(named))
        pairs.append((sample, verdicts))
    models = {model: Tally(*counts["", model]) for model in instructions}
    types = sorted({sample.pair.edit_type for sample, _ in pairs})
    return {
        "models": models,
        "types": {kind: {model: Tally(*counts[kind, model]) for model in instructions} for kind in types},
        "pairs": pairs,
    }


def write_report(
    output: Path,
    shards: str | Path,
    instructions: dict[str, dict[str, str]],
    *,
    metrics: Path,
    facts: list[tuple[str, str]],
    shown: int = 60,
) -> dict:
    """Write `output` (HTML) and `output` with .json beside it; returns the numbers. Nothing is fetched by the page."""
    verdict = judge(shards, instructions)
    rows = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    pairs = []
    # Pairs of every edit type first, so that the first screen shows the breadth.
    by_type: dict[str, list] = {}
    for pair in verdict["pairs"]:
        by_type.setdefault(pair[0].pair.edit_type, []).append(pair)
    turns = [group[i] for i in range(len(verdict["pairs"])) for group in by_type.values() if i < len(group)]
    for sample, verdicts in turns[:shown]:
        texts = []
        for model, named in verdicts.items():
            changes = [(change.named, ", ".join(change.failure_modes)) for change in named]
            texts.append((model, instructions[model][sample.pair.id], changes))
        pairs.append(
            {
                "id": sample.pair.id,
                "type": sample.pair.edit_type,
                "category": sample.pair.category,
                "source": _data_url(sample.source_bytes),
                "target": _data_url(sample.target_bytes),
                "truth": sample.pair.instruction,
                "primary": [change.text for change in sample.pair.changes.primary],
                "texts": texts,
            }
        )
    template = resources.files("editcaption_mega.evaluation").joinpath("demo_report.html.j2").read_text("utf-8")
    html = (
        Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
        .from_string(template)
        .render(
            models=verdict["models"], types=verdict["types"], pairs=pairs, facts=facts, curve=_curve(rows),
            total_pairs=len(verdict["pairs"]),
        )
    )  # fmt: skip
    output.write_text(html, encoding="utf-8")
    numbers = {
        "models": {model: tally.to_json() for model, tally in verdict["models"].items()},
        "types": {k: {m: t.to_json() for m, t in row.items()} for k, row in verdict["types"].items()},
    }
    output.with_suffix(".json").write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    return numbers


def _data_url(data: bytes) -> str:
    kind = "png" if data.startswith(b"\x89PNG") else "webp" if data[8:12] == b"WEBP" else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _curve(rows: list[dict]) -> str:
    """Loss over steps as a PNG data URL."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    steps, losses = [row["step"] for row in rows], [row["loss"] for row in rows]
    window = max(1, len(losses) // 60)
    smooth = [
        sum(losses[max(0, i - window) : i + 1]) / len(losses[max(0, i - window) : i + 1]) for i in range(len(losses))
    ]
    figure, axis = plt.subplots(figsize=(7.5, 3.0), dpi=110)
    axis.plot(steps, losses, color="#b9c6d8", linewidth=0.8, label="each step")
    axis.plot(steps, smooth, color="#1f4e8c", linewidth=1.8, label=f"mean of {window + 1} steps")
    axis.set_xlabel("optimizer step")
    axis.set_ylabel("loss (nats per response token)")
    axis.set_yscale("log")
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight")
    plt.close(figure)
    return _data_url(buffer.getvalue())
