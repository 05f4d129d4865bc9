"""What the steps of the demonstration did and were worth, against the truth that they never saw."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from editcaption_mega.curation.columns import ColumnFile, joined
from editcaption_mega.curation.scores.separation import separation_of_texts
from editcaption_mega.data.shards.reader import ShardReader, open_shards
from editcaption_mega.evaluation.report.training_runs import read_run
from editcaption_mega.evaluation.stats.intervals import bootstrap_interval, wilson_interval
from editcaption_mega.files import read_json_object
from editcaption_mega.records import EditPair

from .demo_files import DemoFiles
from .known_truth import is_synthetic, read_truth, verdict_of

NO_SCORES = ("id", "sample", "lint_messages", "reason")
LENGTH = "length of the text"
Truth = Mapping[str, EditPair]


def demo_figures(files: DemoFiles, best: str) -> dict[str, Any]:
    """Of a finished demonstration. best: the column by which the filter chose among a pair's captions."""
    truth = read_truth(files.truth)
    with open_shards(files.shards("pool")) as pool, open_shards(files.shards("filtered")) as filtered:
        drafts = {pair.id: pair.instruction or "" for pair in _pairs(filtered)}
        synthetic = [name for name in pool.ids if is_synthetic(truth[name])]
        return {
            "pairs": {"synthetic": len(synthetic), "real": len(pool) - len(synthetic)},
            "captions": _captions(files, pool, truth),
            "scores": _scores(files, pool, truth),
            "filter": _filter(files, pool, truth, drafts, best),
            "refine": _refine(files, truth, drafts),
            "preference": _preference(files, truth),
            "sft": read_run("sft", files.run).to_json(),
            "result": _result(files),
        }


def _share(hits: Iterable[bool]) -> dict[str, Any]:
    """A share with its 95 % interval (Wilson); the hits are independent."""
    marks = list(hits)
    low, high = wilson_interval(sum(marks), len(marks))
    return {"value": sum(marks) / len(marks) if marks else None, "interval": [low, high], "n": len(marks)}


def _right(text: str | None, truth: EditPair) -> bool:
    return bool(text) and verdict_of(text or "", truth).correct


def _pairs(shards: ShardReader) -> Iterator[EditPair]:
    return map(shards.pair, range(len(shards)))


def _captions(files: DemoFiles, pool: ShardReader, truth: Truth) -> dict[str, Any]:
    statuses: Counter[str] = Counter()
    right = []  # of each synthetic pair, the share of its samples
    for rows in (captions := ColumnFile(files.column_file("captions"), pool)):
        statuses.update(row["status"] for row in rows)
        if is_synthetic(pair := truth[rows[0]["id"]]):
            right.append(sum(_right(row.get("instruction"), pair) for row in rows) / len(rows))
    value = {"value": sum(right) / len(right), "interval": list(bootstrap_interval(right)), "n": len(right)}
    return {"samples": captions.samples, "statuses": dict(statuses), "right": value}


def _scores(files: DemoFiles, pool: ShardReader, truth: Truth) -> list[dict[str, Any]]:
    """How well each column of numbers tells right captions from wrong ones, on the synthetic pairs."""
    captions, *scores = (ColumnFile(files.column_file(name), pool) for name in ("captions", "log_probs", "agreement"))
    values: dict[str, list[tuple[float, bool, int]]] = {}
    for at, (texts, *columns) in joined(pool, [captions, *scores]):
        pair = truth[pool.ids[at]]
        for sample, row in enumerate(texts):
            if not is_synthetic(pair) or not (text := row.get("instruction")):
                continue
            numbers = {name: value for rows in columns for name, value in rows[sample].items() if name not in NO_SCORES}
            right = _right(text, pair)
            for name, value in (numbers | {LENGTH: len(text)}).items():
                values.setdefault(name, []).append((value, right, at))
    scored = []
    for name, texts in values.items():
        numbers, right, places = zip(*texts, strict=True)
        area = separation_of_texts(numbers, right, places).to_json()
        scored.append({"score": name, "right": sum(right), "wrong": len(right) - sum(right)} | area)
    return scored


def _filter(
    files: DemoFiles, pool: ShardReader, truth: Truth, drafts: Mapping[str, str], best: str
) -> dict[str, Any]:  # fmt: skip
    """Precision of what is chosen of each pair before the filter, and of what stays."""
    before = []
    captions, scores = (ColumnFile(files.column_file(name), pool) for name in ("captions", "log_probs"))
    for at, (texts, rows) in joined(pool, [captions, scores]):
        if is_synthetic(pair := truth[pool.ids[at]]):
            chosen = max(range(len(texts)), key=lambda i: rows[i].get(best, float("-inf")))
            before.append(_right(texts[chosen].get("instruction"), pair))
    after = [_right(text, truth[name]) for name, text in drafts.items() if is_synthetic(truth[name])]
    survival = read_json_object(files.beside("filtered", "survival.json"))
    real = sum(not is_synthetic(truth[name]) for name in drafts)
    return {"before": _share(before), "after": _share(after), "real_left": real, **survival}


def _people(files: DemoFiles, form: str, shards: str) -> dict[str, Any]:
    with open(files.beside(shards, "opinions.jsonl"), encoding="utf-8") as file:
        verdicts = Counter(json.loads(line)["verdict"] for line in file)
    quality = read_json_object(files.beside(shards, "quality.json"))
    with open_shards(files.shards(shards)) as made:
        return {"tasks": verdicts.total(), "verdicts": dict(verdicts), "written": len(made), **quality}


def _refine(files: DemoFiles, truth: Truth, drafts: Mapping[str, str]) -> dict[str, Any]:
    """Of the pairs that people's opinions left, the drafts and what became of them."""
    with open_shards(files.shards("sft")) as shards:
        refined = {pair.id: pair.instruction or "" for pair in _pairs(shards) if is_synthetic(truth[pair.id])}
    before, after = (_share(_right(texts[name], truth[name]) for name in refined) for texts in (drafts, refined))
    all_drafts = _share(_right(text, truth[name]) for name, text in drafts.items() if is_synthetic(truth[name]))
    return {"drafts": all_drafts, "before": before, "after": after} | _people(files, "refine", "sft")


def _preference(files: DemoFiles, truth: Truth) -> dict[str, Any]:
    with open_shards(files.shards("preference")) as shards:
        pairs = [pair for pair in _pairs(shards) if is_synthetic(truth[pair.id])]
        modes = Counter(mode for pair in _pairs(shards) for mode in pair.failure_modes or [])
    chosen = _share(_right(pair.chosen, truth[pair.id]) for pair in pairs)
    rejected = _share(not _right(pair.rejected, truth[pair.id]) for pair in pairs)
    people = _people(files, "preference", "preference")
    return {"chosen_right": chosen, "rejected_wrong": rejected, "failure_modes": dict(modes)} | people


def _result(files: DemoFiles) -> dict[str, Any]:
    """A digest of what the demonstration made: equal for equal ids and texts, whoever was killed on the way."""
    digest, counts = hashlib.sha256(), {}
    for name in ("sft", "preference"):
        with open_shards(files.shards(name)) as shards:
            counts[name] = len(shards)
            for pair in _pairs(shards):
                texts = [pair.id, pair.instruction, pair.chosen, pair.rejected, pair.failure_modes, pair.severity]
                digest.update(json.dumps(texts).encode() + b"\n")
    return {"digest": digest.hexdigest()[:16], **counts}
