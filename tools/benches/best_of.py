"""How much of preference training is had without training: the best of n, and a model that checks itself.

A model's greedy captions of pairs whose truth is known, against what is chosen for each pair among n samples, and among
its greedy caption and the one with the directions turned; judged by rule. Each step is the command that a user gives.
`tools/bench.py best-of` is the command."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from editcaption_mega.curation.columns import ColumnFile
from editcaption_mega.data import open_shards
from editcaption_mega.evaluation.judge.rule_judge import judge
from editcaption_mega.evaluation.stats.intervals import bootstrap_estimate, wilson_interval
from editcaption_mega.records.pair import FAILURE_MODES

ROOT = Path(__file__).resolve().parents[2]
# name -> the file of candidates, and the rule that chooses among them
WAYS = {
    "best of n by log_prob": ("samples", "log_prob"),
    "best of n by agreement": ("samples", "agreement"),
    "best of n by log_prob and reward:0.5": ("samples", "log_prob reward:0.5"),
    "best of n by log_prob and reward:2": ("samples", "log_prob reward:2"),
    "self-check by log_prob": ("alternatives", "log_prob"),
    "self-check by log_prob and reward:0.5": ("alternatives", "log_prob reward:0.5"),
    "self-check by log_prob and reward:2": ("alternatives", "log_prob reward:2"),
}


def measure(
    model: Path, reference: Path, shards: Path, work: Path, *, samples: int, prompts: tuple[str, str],
    min_pixels: int, say: Any,
) -> list[dict[str, Any]]:  # fmt: skip
    """model: a Hugging Face folder; reference: that its DPO began with. work: a folder for the files, where a killed
    run goes on. prompts: as in training, and one that shows a draft ("": the package's)."""
    prompt, check_prompt = prompts
    picture_and_prompt = ["--min-pixels", min_pixels, "--prompt", prompt]

    def run(what: str, output: str, *command: object) -> Path:
        path = work / output
        if not path.exists():
            say(what)
            subprocess.run([sys.executable, *map(str, command), path], cwd=ROOT, check=True)
        return path

    def caption(name: str, count: int, temperature: float, drafts: str = "") -> Path:
        settings = {
            "shards": [str(shards)], "output": str(work / f"{name}.jsonl"), "folder": str(model), "samples": count,
            "drafts": drafts,
            "generation": {"temperature": temperature, "min_pixels": min_pixels, "max_tokens": 64, "batch_size": 64,
                           "prompt": check_prompt if drafts else prompt},
        }  # fmt: skip
        (work / f"{name}.yaml").write_text(yaml.safe_dump(settings))
        if not (work / f"{name}.jsonl").exists():
            say(f"captions: {name}")
            subprocess.run([sys.executable, "tools/curate.py", "caption", work / f"{name}.yaml"], cwd=ROOT, check=True)
        return work / f"{name}.jsonl"

    def log_probs(of: Path, by: Path, name: str) -> Path:
        command = ["tools/log_probs.py", "--checkpoint", by, "--shards", shards, "--texts", of, *picture_and_prompt]
        return run(f"log-probs: {name}", f"{name}.log_probs.jsonl", *command, "--output")

    def curate(output: str, *command: object) -> Path:
        return run(f"curate: {output}", output, "tools/curate.py", *command, "--shards", shards, "--output")

    greedy = caption("greedy", 1, 0.0)
    candidates = {"samples": caption("samples", samples, 1.0)}
    candidates["alternatives"] = curate("alternatives.jsonl", "alternatives", "--captions", greedy)
    scores: dict[str, list[Path]] = {}
    for name, texts in candidates.items():
        given, other = (
            log_probs(texts, by, f"{name}.{who}") for by, who in ((model, "model"), (reference, "reference"))
        )
        command = ["score", "log-probs", "--captions", texts, "--given", given, "--reference", other]
        scores[name] = [curate(f"{name}.likelihoods.jsonl", *command)]
    agreement = curate("samples.agreement.jsonl", "score", "agreement", "--captions", candidates["samples"])
    scores["samples"].append(agreement)
    chosen = {"greedy": greedy, "self-check by prompt": caption("checked", 1, 0.0, drafts=str(greedy))}
    for number, (way, (name, rule)) in enumerate(WAYS.items()):
        command = ["best-of", "--captions", candidates[name], "--scores", *scores[name], "--by", *rule.split()]
        chosen[way] = curate(f"chosen.{number}.jsonl", *command)
    return records(shards, chosen)


def records(shards_folder: Path, chosen: dict[str, Path]) -> list[dict[str, Any]]:
    """How each way does, and by which share its errors are fewer than those of greedy captions."""
    shards = open_shards(shards_folder)
    truths = [shards.pair(i).changes for i in range(len(shards))]
    errors: dict[str, dict[str, list[float]]] = {}
    found = []
    for way, path in chosen.items():
        texts = [rows[0].get("instruction") or "" for rows in ColumnFile(path, shards)]
        judged = [judge(text, truth) for text, truth in zip(texts, truths, strict=True)]
        errors[way] = {mode: [float(mode in one.failure_modes) for one in judged] for mode in FAILURE_MODES}
        record: dict[str, Any] = {"way": way, "pairs": len(judged)}
        record["weighted"] = sum(one.weighted for one in judged) / len(judged)
        correct = sum(one.correct for one in judged)
        record["correct"], record["correct_interval"] = correct / len(judged), wilson_interval(correct, len(judged))
        for mode in FAILURE_MODES:
            record[mode] = sum(errors[way][mode]) / len(judged)
        record["fewer"] = fewer(errors["greedy"]["orientation"], errors[way]["orientation"])
        found.append(record)
    return found


def fewer(before: Sequence[float], after: Sequence[float]) -> dict[str, Any]:
    """By which share the errors fall, pairs drawn anew together."""
    import numpy as np

    first, second = np.array(before), np.array(after)
    return bootstrap_estimate(lambda weights: 1 - (weights @ second) / (weights @ first), len(first)).to_json()


def markdown(found: list[dict[str, Any]], case: str) -> str:
    lines = [
        case,
        "",
        "| way | weighted | wholly correct | " + " | ".join(FAILURE_MODES) + " | orientation errors fewer by |",
    ]
    lines.append("|---" * (4 + len(FAILURE_MODES)) + "|")
    for record in found:
        modes = [f"{100 * record[mode]:.1f} %" for mode in FAILURE_MODES]
        interval = record["fewer"]["interval"]
        share = "" if record["way"] == "greedy" else f"{100 * record['fewer']['value']:.0f} %"
        if share and interval:
            share += f" ({100 * interval[0]:.0f} to {100 * interval[1]:.0f})"
        least, most = record["correct_interval"]
        correct = f"{100 * record['correct']:.1f} % ({100 * least:.1f} to {100 * most:.1f})"
        cells = [record["way"], f"{record['weighted']:.3f}", correct, *modes, share]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
