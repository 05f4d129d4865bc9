"""Preference pairs from the model itself (paper, section 3.4): what it gets wrong is rejected, the truth is chosen.

On the synthetic world the ground truth says which instructions are wrong, and how. Pairs without machine-readable
truth need people (`curation/people`); they are refused here.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from editcaption_mega.data.batching.dataset import PairDataset
from editcaption_mega.data.images.formats import extension
from editcaption_mega.data.shards.writer import ShardWriter, refuse_used
from editcaption_mega.files import write_atomically
from editcaption_mega.inference import Generator
from editcaption_mega.progress import Progress, no_progress
from editcaption_mega.records import EditPair

from .model_samples import SamplingSettings, sampled_instructions
from .truth_verdicts import Verdict, verdict

NO_FAILURE_MODE = "no failure mode"


@dataclass(frozen=True)
class RejectedCounts:
    """What became of the pairs, and in what the rejected instructions fail."""

    verdicts: Counter[str] = field(default_factory=Counter)  # rejected, already_correct, unusable: pairs
    failure_modes: Counter[str] = field(default_factory=Counter)  # of rejected instructions


def sample_rejected(
    dataset: PairDataset,
    load_generator: Callable[[], Generator],
    output: Path,
    settings: SamplingSettings,
    *,
    model: str,
    progress: Progress = no_progress,
) -> RejectedCounts:
    """Shards of preference pairs in `output`, from what the model writes for each pair of `dataset`.

    Of a pair's wrong instructions the most frequent becomes `rejected` (the first one of equals), its instruction
    `chosen`. A pair without a wrong one is `already_correct` and kept out; one whose samples were all cut off at
    max_new_tokens or empty is `unusable`. `output`.samples.jsonl holds every text and grows batch by batch, so a killed
    run goes on; `output`.verdicts.jsonl says what became of each pair. model: the digest of the model's weights.
    Raises ValueError before any work for pairs without truth, and at the end when no pair became a preference."""
    for i in range(len(dataset)):
        _check(dataset.shards.pair(i))
    refuse_used(output)
    samples_file = output.with_name(output.name + ".samples.jsonl")
    samples = sampled_instructions(dataset, load_generator, samples_file, settings, model, progress)
    sampling = {"model": model, "temperature": settings.temperature, "seed": settings.seed}
    counts, lines = RejectedCounts(), []
    with ShardWriter(output) as writer:
        for i in range(len(dataset)):
            pair = dataset.shards.pair(i)
            record, found = _judged(pair, samples[pair.id])
            if found is not None:
                _write(writer, dataset, i, _preference(pair, record, found, sampling))
                counts.failure_modes.update(found.failure_modes or (NO_FAILURE_MODE,))
            counts.verdicts[record["verdict"]] += 1
            lines.append(json.dumps(record) + "\n")
        if not counts.verdicts["rejected"]:
            raise ValueError(
                f"no pair became a preference: of {len(dataset)} pairs {counts.verdicts['already_correct']} are "
                f"already_correct and {counts.verdicts['unusable']} unusable; sample more, or at a higher temperature"
            )
        # Before the set is whole: a run that is killed here does all of it again.
        write_atomically(output.with_name(output.name + ".verdicts.jsonl"), "".join(lines))
    return counts


def _check(pair: EditPair) -> None:
    """Raises ValueError for a pair whose truth cannot say what is wrong, or whose own instruction is."""
    if not pair.instruction or pair.changes is None or any(c.facts is None for c in pair.changes.primary):
        raise ValueError(
            f"sample {pair.id} has no instruction with machine-readable truth (changes.primary[].facts), so what "
            "the model writes cannot be checked by rule: have people correct it (--folder in the place of --output)"
        )
    if not verdict(pair.instruction, pair.changes).correct:
        raise ValueError(
            f"sample {pair.id}: its own instruction ({pair.instruction!r}) does not say what its changes say, so "
            "it cannot be the chosen answer: give pairs with right instructions (a world without caption_mistakes)"
        )


def _judged(pair: EditPair, samples: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], Verdict | None]:
    """What becomes of a pair, as a line of the file of verdicts; and of its rejected instruction, where it has one."""
    assert pair.changes is not None, "checked for every pair"
    usable = [sample["instruction"] for sample in samples if sample["finished"] and sample["instruction"]]
    verdicts = {text: verdict(text, pair.changes) for text in dict.fromkeys(usable)}
    wrong = [text for text in usable if not verdicts[text].correct]
    if not wrong:
        return {"id": pair.id, "verdict": "already_correct" if usable else "unusable"}, None
    ((rejected, times),) = Counter(wrong).most_common(1)
    found = verdicts[rejected]
    return {
        "id": pair.id,
        "verdict": "rejected",
        "instruction": rejected,
        "times": times,
        "of": len(samples),
        "failure_modes": list(found.failure_modes),
        "severity": found.severity,
    }, found


def _preference(pair: EditPair, record: dict[str, Any], found: Verdict, sampling: dict[str, Any]) -> EditPair:
    rejected = {**sampling, "times": record["times"], "of": record["of"]}
    return pair.model_copy(
        update={
            "chosen": pair.instruction,
            "rejected": record["instruction"],
            "failure_modes": list(found.failure_modes),
            "severity": found.severity,
            "provenance": {**pair.provenance, "rejected": rejected},
        }
    )


def _write(writer: ShardWriter, dataset: PairDataset, i: int, pair: EditPair) -> None:
    sample = dataset.shards[i]
    source, target = sample.source_bytes, sample.target_bytes
    writer.add(pair, source, extension(source), target, extension(target))
