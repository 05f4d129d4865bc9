"""What the browser of samples needs of each pair, as compact JSON that is safe inside a <script> element."""

from collections.abc import Callable, Iterator
from itertools import batched
from typing import Any

from editcaption_mega.evaluation.benchmarks import Benchmark
from editcaption_mega.evaluation.report.join import Joined
from editcaption_mega.evaluation.rubric.opinions import FAULTS, MEASURES, Labels
from editcaption_mega.records import EditPair

from .self_contained import script_json

type Facts = Callable[[Benchmark, int, EditPair], list[tuple[str, str]]]

PAIRS_PER_CHUNK = 200
_LONGEST_WORDS = 600  # characters of what a judge wrote


def overview(joined: Joined, *, disagree: float) -> dict[str, Any]:
    """What all samples share. disagree: difference of weighted scores from which models are said to disagree."""
    return {
        "benchmarks": list(joined.benchmarks),
        "models": joined.models,
        "judges": joined.judges,
        "faults": list(FAULTS),
        "measures": list(MEASURES),
        "disagree": disagree,
        "pairs": sum(map(len, joined.benchmarks.values())),
    }


def chunks(joined: Joined, facts: Facts | None = None) -> Iterator[str]:
    """The samples of all benchmarks in order, as JSON arrays of PAIRS_PER_CHUNK.

    facts: more of the pair at a place of its benchmark, as (name, value)."""
    samples = (
        _sample(joined, number, name, pair) | ({"facts": facts(benchmark, i, pair)} if facts else {})
        for number, (name, benchmark) in enumerate(joined.benchmarks.items())
        for i, pair in enumerate(benchmark.pairs())
    )
    return (script_json(list(chunk)) for chunk in batched(samples, PAIRS_PER_CHUNK))


def _sample(joined: Joined, number: int, name: str, pair: EditPair) -> dict[str, Any]:
    """Lists by model and by judge are in the overview's order; null where a model or a judge lacks the benchmark."""
    written = joined.instructions[name]
    rows = [written.get(model, {}).get(pair.id) for model in joined.models]
    by_judge = [by_benchmark.get(name, {}) for by_benchmark in joined.labels.values()]
    sample = {
        "set": number,
        "id": pair.id,
        "category": pair.category,
        "type": pair.edit_type,
        "texts": [row and (row.instruction if row.reason is None else {"reason": row.reason}) for row in rows],
        "labels": [
            [_labels(by_benchmark[model][pair.id]) if model in by_benchmark else None for model in joined.models]
            for by_benchmark in by_judge
        ],
    }
    if pair.changes is not None:
        sample["truth"] = {
            "primary": [[change.id, change.text] for change in pair.changes.primary],
            "secondary": [[change.id, change.text] for change in pair.changes.secondary],
            "overall": pair.changes.overall,
        }
    people = [joined.verdicts[name].get(model, {}).get(pair.id, []) for model in joined.models]
    if any(people):
        sample["people"] = [[[v.annotator, v.severity, v.rows, v.remark] for v in given] for given in people]
    return sample


def _labels(opinion: Labels) -> dict[str, Any]:
    """Numbers rounded to thousandths; what is empty is left out."""
    fields = {
        "n": opinion.repeats,
        "scores": [round(opinion.scores[m], 3) if m in opinion.scores else None for m in MEASURES],
        "spread": [round(opinion.spread.get(m, 0.0), 3) for m in MEASURES] if any(opinion.spread.values()) else None,
        "unscored": opinion.unscored,
        "partly": opinion.partly,
        "hits": opinion.hits,
        "misses": opinion.misses,
        "secondary": opinion.secondary_hits,
        "claims": [[text, verdict, change, n] for (text, verdict, change), n in opinion.assertions.items()],
        "forbidden": opinion.forbidden,
        "faults": [FAULTS.index(fault) for fault in opinion.faults],
        "words": {name: [_short(text) for text in texts] for name, texts in opinion.words.items()},
    }
    fields = {name: value for name, value in fields.items() if value}
    return fields if opinion.correct is None else fields | {"correct": opinion.correct}


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_WORDS else text[: _LONGEST_WORDS - 2] + ".."
