"""An evaluation small enough for tests: synthetic pairs, pretend models that err at given rates, the rule judge."""

import random

from editcaption_mega.data.importers import FORMATS, ImportOptions
from editcaption_mega.data.importers.ingest import ingest
from editcaption_mega.data.synthetic.mistakes import mistaken
from editcaption_mega.data.synthetic.phrasing import phrase_all
from editcaption_mega.evaluation.benchmarks import Benchmark
from editcaption_mega.evaluation.judge import rule_judge
from editcaption_mega.records import FAILURE_MODES, HumanVerdict, Instruction, Judgement

JUDGE = "rule judge"
INVENTIONS = (" and add a large purple star at the top left", ", then recolour the grey ring to pink")


def synthetic_benchmark(folder, count, name="synthetic", seed=0):
    options = ImportOptions(count, seed, 0)
    ingest(FORMATS["synthetic"].read("default", options), str(folder), require_instruction=True)
    return Benchmark(name, folder)


def written(benchmark, model, *, mistakes=0.0, invents=0.0, vague=0.0, refuses=0.0, seed=0):
    """One instruction per pair: the truth, or something wrong, invented, vague or nothing at these rates."""
    rng = random.Random(f"{model}/{seed}")
    rows = []
    for pair in benchmark.pairs():
        facts, _ = mistaken([c.facts for c in pair.changes.primary], dict.fromkeys(FAILURE_MODES, mistakes), rng)
        text = phrase_all(facts, rng)
        if rng.random() < invents:
            text = text[:-1] + rng.choice(INVENTIONS) + "."
        if rng.random() < vague:
            text = text[:-1] + ", slightly."
        said = {"reason": "refused by the content filter"} if rng.random() < refuses else {"instruction": text}
        rows.append(Instruction(benchmark=benchmark.name, id=pair.id, model=model, **said))
    return rows


def judged(benchmark, rows, *, judge=JUDGE, repeats=1, wobble=0.0, fails=0.0, seed=0):
    """The rule judge's opinion of each instruction. wobble: chance that a repeat gives a clarity one lower."""
    rng = random.Random(f"{judge}/{seed}")
    pairs = {pair.id: pair for pair in benchmark.pairs()}
    return [
        _judgement(row, pairs[row.id].changes, judge, repeat, rng.random() < wobble, rng.random() < fails)
        for row in rows
        if row.instruction is not None
        for repeat in range(repeats)
    ]


def _judgement(row, truth, judge, repeat, lower, fails):
    found = rule_judge.judge(row.instruction, truth)
    scores = {
        "accuracy": found.accuracy,
        "completeness": found.completeness,
        "clarity": max(1.0, found.clarity - lower),
    }
    unscored = {"accuracy": "the reply was cut off at the token limit"} if fails else {}
    return Judgement(
        benchmark=row.benchmark,
        id=row.id,
        model=row.model,
        judge=judge,
        repeat=repeat,
        scores={name: value for name, value in scores.items() if name not in unscored},
        unscored=unscored,
        hits=list(found.hits),
        misses=[change.id for change in truth.primary if change.id not in found.hits],
        assertions=rule_judge.assertions(row.instruction, truth),
        forbidden=list(found.forbidden),
        failure_modes=[mode for mode in FAILURE_MODES if mode in found.failure_modes],
        correct=found.correct,
    )


def people(benchmark, rows, *, annotators=("ann", "ben"), share=1.0, seed=0):
    rng = random.Random(f"people/{seed}")
    truths = {pair.id: pair.changes for pair in benchmark.pairs()}
    found = []
    for row in rows[: round(share * len(rows))]:
        if row.instruction is None:
            continue
        correct = rule_judge.judge(row.instruction, truths[row.id]).correct
        for annotator in annotators:
            severity = "correct" if correct else rng.choice(("P0", "P0", "P1", "P2"))
            about = {"correct": [], "P0": [1], "P1": [5], "P2": [7]}[severity]
            found.append(
                HumanVerdict(
                    benchmark=row.benchmark,
                    id=row.id,
                    model=row.model,
                    annotator=annotator,
                    severity=severity,
                    rows=about,
                )
            )
    return found
