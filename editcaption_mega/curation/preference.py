"""Preference pairs from the model itself (paper, section 3.4): what it gets wrong is rejected, the truth is chosen.

On the synthetic world the ground truth says which instructions are wrong, and how. Pairs without machine-readable
truth need people; they are refused here.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from editcaption_mega.data.batching.dataset import PairDataset
from editcaption_mega.data.shards.writer import ShardWriter, refuse_used
from editcaption_mega.data.synthetic.named_changes import named_changes, wrong_claims
from editcaption_mega.files import parse_json, write_atomically
from editcaption_mega.inference import Generator
from editcaption_mega.inference.local.instructions import write_instructions
from editcaption_mega.progress import Progress, no_progress
from editcaption_mega.records import Changes
from editcaption_mega.records.pair import FAILURE_MODES
from editcaption_mega.settings import SettingsError


@dataclass(frozen=True)
class Verdict:
    """What the truth says of an instruction.

    correct: it names each primary change exactly and claims nothing else. failure_modes: of what it gets wrong, in the
    order of records.FAILURE_MODES; empty when it only leaves something out or invents it. severity: 0 .. 1, the mean
    over the primary changes of 1 (left out, or another action), 1/2 (the action named, an attribute wrong) and 0
    (named), plus 1/2 per primary change for each pure invention, at most 1."""

    correct: bool
    failure_modes: tuple[str, ...]
    severity: float


def verdict(instruction: str, truth: Changes) -> Verdict:
    """Raises ValueError when the truth has no facts (only the synthetic world's has)."""
    changes, wrong = named_changes(instruction, truth), wrong_claims(instruction, truth)
    modes = {mode for change in changes for mode in change.failure_modes}
    points = 0.0
    for change, true in zip(changes, truth.primary, strict=True):
        if not change.named:
            halfway = change.claim is not None and change.claim["action"] == (true.facts or {})["action"]
            points += 0.5 if halfway else 1.0
    points += 0.5 * sum(claim.mistaken_for is None for claim in wrong)
    correct = not wrong and all(change.named for change in changes)
    return Verdict(correct, tuple(m for m in FAILURE_MODES if m in modes), min(1.0, points / len(changes)))


@dataclass(frozen=True)
class SamplingSettings:
    samples: int = 1  # instructions per pair
    temperature: float = 0.0  # 0: the likeliest tokens (then one sample says all)
    seed: int = 0
    max_new_tokens: int = 256
    batch_size: int = 32  # pairs answered at once

    def __post_init__(self) -> None:
        for name in ("samples", "max_new_tokens", "batch_size"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name}={getattr(self, name)} must be at least 1")
        if self.temperature < 0:
            raise SettingsError(f"temperature={self.temperature} must be 0 or more")
        if self.temperature == 0 and self.samples > 1:
            raise SettingsError(
                f"samples={self.samples} at temperature 0 would be one text {self.samples} times: set a temperature"
            )


def sample_rejected(
    dataset: PairDataset,
    load_generator: Callable[[], Generator],
    output: Path,
    settings: SamplingSettings,
    *,
    model: str,
    progress: Progress = no_progress,
) -> Counter:
    """Shards of preference pairs in `output`, from what the model writes for each pair of `dataset`.

    Of a pair's wrong instructions the most frequent becomes `rejected` (the first one of equals), its instruction
    `chosen`. A pair without a wrong one is `already_correct` and kept out; one whose samples were all cut off at
    max_new_tokens or empty is `unusable`. `output`.samples.jsonl holds every text and grows batch by batch, so a killed
    run goes on; `output`.verdicts.jsonl says what became of each pair. model: the digest of the model's weights.
    Returns how many pairs of each verdict there are. Raises ValueError before any work for pairs without truth."""
    for i in range(len(dataset)):
        pair = dataset.shards.pair(i)
        if not pair.instruction or pair.changes is None or any(c.facts is None for c in pair.changes.primary):
            raise ValueError(
                f"sample {pair.id} has no instruction with machine-readable truth (changes.primary[].facts), so what "
                "the model writes cannot be checked by rule: give pairs of the synthetic world"
            )
        if not verdict(pair.instruction, pair.changes).correct:
            raise ValueError(
                f"sample {pair.id}: its own instruction ({pair.instruction!r}) does not say what its changes say, so "
                "it cannot be the chosen answer: give pairs with right instructions (a world without caption_mistakes)"
            )
    refuse_used(output)
    texts = _samples(
        dataset, load_generator, output.with_name(output.name + ".samples.jsonl"), settings, model, progress
    )
    counts: Counter = Counter()
    rows = []
    with ShardWriter(output) as writer:
        for i in range(len(dataset)):
            shard_sample = dataset.shards[i]
            pair = shard_sample.pair
            usable = [row["instruction"] for row in texts[pair.id] if row["finished"] and row["instruction"]]
            assert pair.changes is not None, "checked above, for every pair"
            judged = {text: verdict(text, pair.changes) for text in dict.fromkeys(usable)}
            wrong = [text for text in usable if not judged[text].correct]
            row: dict[str, Any] = {"id": pair.id, "verdict": "already_correct" if usable else "unusable"}
            if wrong:
                rejected, times = Counter(wrong).most_common(1)[0]
                found = judged[rejected]
                row |= {
                    "verdict": "rejected",
                    "instruction": rejected,
                    "times": times,
                    "of": len(texts[pair.id]),
                    "failure_modes": list(found.failure_modes),
                    "severity": found.severity,
                }
                sampling = {"model": model, "temperature": settings.temperature, "seed": settings.seed}
                preference = pair.model_copy(
                    update={
                        "chosen": pair.instruction,
                        "rejected": rejected,
                        "failure_modes": list(found.failure_modes),
                        "severity": found.severity,
                        "provenance": {**pair.provenance, "rejected": {**sampling, "times": times, "of": row["of"]}},
                    }
                )
                writer.add(
                    preference,
                    shard_sample.source_bytes,
                    _extension(shard_sample.source_bytes),
                    shard_sample.target_bytes,
                    _extension(shard_sample.target_bytes),
                )
                counts.update(found.failure_modes or ("no failure mode",))
            counts[row["verdict"]] += 1
            rows.append(row)
        if not counts["rejected"]:
            raise ValueError(
                f"no pair became a preference: of {len(dataset)} pairs {counts['already_correct']} are already_correct "
                f"and {counts['unusable']} unusable; sample more, or at a higher temperature"
            )
        # Before the set is whole: a run that is killed here does all of it again.
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        write_atomically(output.with_name(output.name + ".verdicts.jsonl"), lines)
    return counts


def _samples(dataset, load_generator, path: Path, settings: SamplingSettings, model: str, progress) -> dict[str, list]:
    """Every text by pair id, sampled where `path` does not have it yet."""
    head = {
        "model": model,
        **dataset.fingerprints,
        **asdict(settings),
    }
    done = _read(path, head)
    if len(done) != settings.samples * len(dataset):
        # Whole batches only, so that what is sampled does not depend on where an earlier run was killed.
        rounds, start = divmod(len(done), len(dataset))
        start -= start % settings.batch_size
        done = done[: rounds * len(dataset) + start]
        _rewrite(path, head, done)
        total = settings.samples * len(dataset) - len(done)
        with open(path, "a", encoding="utf-8") as out:
            for row in progress(_sample(dataset, load_generator(), settings, rounds, start), total, "instructions"):
                out.write(json.dumps(row) + "\n")
                out.flush()
                done.append(row)
    texts: dict[str, list] = {}
    for row in done:
        texts.setdefault(row["id"], []).append(row)
    return texts


def _sample(dataset, generator: Generator, settings: SamplingSettings, rounds: int, start: int) -> Iterator[dict]:
    for number in range(rounds, settings.samples):
        yield from write_instructions(
            generator,
            dataset,
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            seed=settings.seed + number * len(dataset),
            batch_size=settings.batch_size,
            first=start if number == rounds else 0,
        )


def _read(path: Path, head: dict) -> list[dict]:
    if not path.is_file():
        return []
    rows = []
    with open(path, "rb") as file:
        for line in file:
            try:
                rows.append(parse_json(line))
            except ValueError:
                break  # the line that a killed run was writing
    if not rows or rows[0] != head:
        kept = rows[0] if rows and isinstance(rows[0], dict) else {}
        other = [name for name in head if kept.get(name) != head[name]]
        raise ValueError(
            f"{path} holds samples made with other settings ({', '.join(other)} differ): choose another output folder "
            "or remove the file"
        )
    return rows[1:]


def _rewrite(path: Path, head: dict, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "".join(json.dumps(row) + "\n" for row in [head, *rows]))


def _extension(data: bytes) -> str:
    return "png" if data.startswith(b"\x89PNG") else "webp" if data[8:12] == b"WEBP" else "jpg"
