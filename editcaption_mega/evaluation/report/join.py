"""Results joined to their pairs: what each model wrote for a pair, what each judge says of it, what people say of it.

The repeats of one judge are one opinion here (`opinions`); all that is printed or drawn starts from these items."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from editcaption_mega.evaluation.benchmarks import Benchmark
from editcaption_mega.evaluation.rubric.opinions import Labels, merge
from editcaption_mega.records import DIMENSIONS, HumanVerdict, Instruction, Judgement


@dataclass(frozen=True)
class Joined:
    """Rows by where they belong. Models and judges are in the order of their first rows; a model or a judge may lack a
    benchmark as a whole, never a part of it."""

    benchmarks: dict[str, Benchmark]
    instructions: dict[str, dict[str, dict[str, Instruction]]]  # benchmark -> model -> pair id
    labels: dict[str, dict[str, dict[str, dict[str, Labels]]]]  # judge -> benchmark -> model -> pair id
    verdicts: dict[str, dict[str, dict[str, list[HumanVerdict]]]]  # benchmark -> model -> pair id

    @property
    def models(self) -> list[str]:
        return list(dict.fromkeys(model for models in self.instructions.values() for model in models))

    @property
    def judges(self) -> list[str]:
        return list(self.labels)


def join(
    benchmarks: Sequence[Benchmark],
    instructions: Iterable[Instruction],
    judgements: Iterable[Judgement],
    verdicts: Iterable[HumanVerdict] = (),
) -> Joined:
    """Every row at its pair. An instruction that was never written (it has a reason) needs no judgement: it is unscored
    for that reason. People may have looked at a part of a benchmark.

    Raises ValueError, naming ids, for rows of unknown benchmarks or pairs, pairs without a row, rows that are there
    twice, and judgements or verdicts of instructions that are not there."""
    known = {benchmark.name: benchmark for benchmark in benchmarks}
    if len(known) != len(benchmarks):
        raise ValueError(f"benchmark names must differ, found {', '.join(one.name for one in benchmarks)}")
    if not known:
        raise ValueError("a report needs at least one benchmark, found none")
    texts = _by_pair(instructions, known, "instructions", ("benchmark", "model"))
    for (name, model), rows in texts.items():
        where = f"instructions of {model!r}"
        known[name].check_join((row.id for found in rows.values() for row in found), where)
    if not texts:
        raise ValueError("a report needs instructions, found none")
    written: dict = {name: {} for name in known}
    for (name, model), rows in texts.items():
        written[name][model] = {pair_id: found[0] for pair_id, found in rows.items()}
    labels: dict = {}
    for (judge, name, model), rows in _by_pair(
        judgements, known, "judgements", ("judge", "benchmark", "model")
    ).items():
        if model not in written[name]:
            raise ValueError(f"{judge!r} judged {model!r} on {name}, of which there are no instructions")
        found = _labels_of_all(rows, written[name][model], known[name], f"judgements of {model!r} by {judge!r}")
        labels.setdefault(judge, {}).setdefault(name, {})[model] = found
    people: dict = {name: {} for name in known}
    for (name, model), rows in _by_pair(verdicts, known, "human verdicts", ("benchmark", "model")).items():
        if model not in written[name]:
            raise ValueError(f"people judged {model!r} on {name}, of which there are no instructions")
        _check_known(rows, known[name], f"human verdicts of {model!r}")
        for pair_id, given in rows.items():
            _check_once([one.annotator for one in given], f"human verdicts of {model!r} on {name}, {pair_id}")
        people[name][model] = rows
    order = {judge: {name: by_name[name] for name in known if name in by_name} for judge, by_name in labels.items()}
    return Joined(known, written, order, people)


def _labels_of_all(rows: dict, written: dict[str, Instruction], benchmark: Benchmark, where: str) -> dict[str, Labels]:
    _check_known(rows, benchmark, where)
    missing = [pair_id for pair_id in benchmark.ids if pair_id not in rows and written[pair_id].reason is None]
    if missing:
        raise ValueError(
            f"{where} on {benchmark.name} lack {len(missing)} of {len(benchmark)} ids (first: {missing[0]}); finish "
            "the judging: what a judge cannot score has a row that says why"
        )
    found = {}
    for pair_id in benchmark.ids:
        if pair_id in rows:
            _check_once([one.repeat for one in rows[pair_id]], f"{where} on {benchmark.name}, {pair_id}")
            found[pair_id] = merge(rows[pair_id])
        else:
            found[pair_id] = Labels(0, unscored=dict.fromkeys(DIMENSIONS, written[pair_id].reason))
    return found


def _by_pair(rows: Iterable, known: dict[str, Benchmark], where: str, keys: tuple[str, ...]) -> dict:
    """Values of `keys` -> pair id -> rows."""
    found: dict = {}
    for row in rows:
        if row.benchmark not in known:
            raise ValueError(f"{where} hold benchmark {row.benchmark!r}; this report is of {', '.join(known)}")
        found.setdefault(tuple(getattr(row, key) for key in keys), {}).setdefault(row.id, []).append(row)
    return found


def _check_known(rows: Mapping[str, list], benchmark: Benchmark, where: str) -> None:
    known = set(benchmark.ids)
    extra = [pair_id for pair_id in rows if pair_id not in known]
    if extra:
        raise ValueError(
            f"{where}: {len(extra)} ids are not of benchmark {benchmark.name} (first: {extra[0]}): they were made for "
            "another list of ids; give the list that they were made for, or make them again (generate, judge, execute; "
            "what did not change costs nothing)"
        )


def _check_once(keys: Sequence, where: str) -> None:
    twice = [key for key, count in Counter(keys).items() if count > 1]
    if twice:
        raise ValueError(f"{where}: {twice[0]!r} is there more than once")
