"""Does a model's own likelihood tell right directions from turned ones? Measured on pairs whose truth is known.

Of each pair with a direction, the right instruction and the one with its directions turned are scored under every view
of the pictures (`tools/log_probs.py --opposites`); the area under the ROC curve says how well each score separates the
two, by edit type. `tools/bench.py scores` is the command."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from editcaption_mega.curation.columns import ColumnFile, ColumnWork
from editcaption_mega.curation.scores.directions import opposite
from editcaption_mega.curation.scores.likelihoods import write_log_prob_scores
from editcaption_mega.curation.scores.separation import RightAndWrong, separations
from editcaption_mega.data import open_shards
from editcaption_mega.data.batching.scoring import VIEWS

ROOT = Path(__file__).resolve().parents[2]
SCORES = ("log_prob", "log_prob_per_token", "margin_swapped", "margin_mirrored", "margin_opposite")


def measure(model: Path, shards_folder: Path, work: Path, options: list[str], say: Any) -> list[dict[str, Any]]:
    """One record for each score and edit type. work: a folder for the files; what is there is used again."""
    shards = open_shards(shards_folder)
    texts = work / "texts.jsonl"
    with ColumnWork(texts, shards, "right and turned", {}, samples=2) as columns:
        for at, sample in columns.missing():
            right = shards.pair(at).instruction or ""
            text = right if sample == 0 else opposite(right)
            columns.keep(
                at,
                {"instruction": text} if text and opposite(right) else {"reason": "names no direction"},
                sample=sample,
            )
        columns.merge()
    captions, files = ColumnFile(texts, shards), {}
    for view in VIEWS:
        files[view] = work / f"{view}.jsonl"
        if not files[view].exists():
            say(f"log-probs under the {view} pictures")
            command = ["tools/log_probs.py", "--checkpoint", model, "--shards", shards_folder, "--texts", texts]
            command += ["--view", view, "--output", files[view], *options]
            subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, check=True)
    write_log_prob_scores(work / "scores.jsonl", shards, captions, files)
    return records(shards, captions, ColumnFile(work / "scores.jsonl", shards))


def records(shards: Any, captions: ColumnFile, scores: ColumnFile) -> list[dict[str, Any]]:
    rows = [
        (shards.pair(at).edit_type, texts, of_pair)
        for at, (texts, of_pair) in enumerate(zip(captions, scores, strict=True))
    ]
    rows = [(kind, texts, of_pair) for kind, texts, of_pair in rows if "reason" not in of_pair[0]]
    found = []
    for name in (*SCORES, "length"):
        pairs = []
        for kind, texts, of_pair in rows:
            values = [len(row["instruction"]) for row in texts] if name == "length" else [row[name] for row in of_pair]
            pairs.append((kind, RightAndWrong(*values)))
        for kind, estimate in separations(pairs).items():
            found.append({"score": name, "edit_type": kind} | estimate.to_json())
    return found


def markdown(found: list[dict[str, Any]], case: str) -> str:
    """A row for each edit type, a column for each score."""
    kinds = list(dict.fromkeys(record["edit_type"] for record in found))
    names = list(dict.fromkeys(record["score"] for record in found))
    by_place = {(record["edit_type"], record["score"]): record for record in found}
    lines = [
        f"Area under the ROC curve, 95 % interval; {case}",
        "",
        "| edit type | pairs | " + " | ".join(names) + " |",
    ]
    lines.append("|---" * (2 + len(names)) + "|")
    for kind in kinds:
        cells = [_cell(by_place[kind, name]) for name in names]
        lines.append(f"| {kind} | {by_place[kind, names[0]]['n']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(record: dict[str, Any]) -> str:
    if record["value"] is None:
        return "none"
    low, high = record["interval"] or (record["value"],) * 2
    return f"{record['value']:.2f} ({low:.2f} to {high:.2f})"
