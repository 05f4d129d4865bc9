"""Results joined to their pairs: what each model wrote for a pair, what each judge says of it, what people say of it.

The repeats of one judge are one opinion here (`rubric.opinions`). Whatever is printed or drawn of texts, scores, labels
and verdicts starts from these; executions have a table of their own, and "how this was made" reads provenance."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from editcaption_mega.evaluation.benchmarks import Benchmark
from editcaption_mega.evaluation.rubric.opinions import Labels, merge
from editcaption_mega.records import DIMENSIONS, HumanVerdict, Instruction, Judgement

# benchmark -> model -> pair id -> record; of opinions first the judge
type Written = dict[str, dict[str, dict[str, Instruction]]]
type Opinions = dict[str, dict[str, dict[str, dict[str, Labels]]]]
type Verdicts = dict[str, dict[str, dict[str, list[HumanVerdict]]]]


@dataclass(frozen=True)
class Joined:
    """Records by where they belong. Models and judges are in the order of their first records; a model or a judge may
    lack a benchmark as a whole, never a part of it."""

    benchmarks: dict[str, Benchmark]
    instructions: Written
    labels: Opinions
    verdicts: Verdicts
    verdicts_as_given: tuple[HumanVerdict, ...] = ()  # the same in their files' order, in which they are resampled

    @property
    def models(self) -> list[str]:
        return list(dict.fromkeys(model for models in self.instructions.values() for model in models))

    @property
    def judges(self) -> list[str]:
        return list(self.labels)

    @property
    def pairs(self) -> int:
        """Pairs of all benchmarks."""
        return sum(map(len, self.benchmarks.values()))

    def opinions(self, judge: str) -> Iterator[tuple[str, str, dict[str, Labels]]]:
        """(benchmark, model, pair id -> opinion) of one judge."""
        for name, by_model in self.labels[judge].items():
            for model, labels in by_model.items():
                yield name, model, labels


def join(
    benchmarks: Sequence[Benchmark],
    instructions: Iterable[Instruction],
    judgements: Iterable[Judgement] = (),
    verdicts: Iterable[HumanVerdict] = (),
) -> Joined:
    """Every record at its pair. An instruction that was never written (it has a reason) needs no judgement: it is
    unscored for that reason. People may have looked at a part of a benchmark.

    Raises ValueError, naming ids, for records of unknown benchmarks or pairs, pairs without one, records that are there
    twice, and judgements or verdicts of instructions that are not there."""
    known = {benchmark.name: benchmark for benchmark in benchmarks}
    if len(known) != len(benchmarks):
        raise ValueError(f"benchmark names must differ, found {', '.join(one.name for one in benchmarks)}")
    if not known:
        raise ValueError("a report needs at least one benchmark, found none")
    verdicts = tuple(verdicts)
    written = _written(known, instructions)
    labels = _labels(known, written, judgements)
    return Joined(known, written, labels, _verdicts(known, written, verdicts), verdicts)


def _written(known: dict[str, Benchmark], instructions: Iterable[Instruction]) -> Written:
    by_model = _by_pair(instructions, known, "instructions", ("benchmark", "model"))
    for (name, model), by_id in by_model.items():
        ids = (instruction.id for several in by_id.values() for instruction in several)
        known[name].check_join(ids, f"instructions of {model!r}")
    if not by_model:
        raise ValueError("a report needs instructions, found none")
    written: Written = {name: {} for name in known}
    for (name, model), by_id in by_model.items():
        written[name][model] = {pair_id: instructions[0] for pair_id, instructions in by_id.items()}
    return written


def _labels(known: dict[str, Benchmark], written: Written, judgements: Iterable[Judgement]) -> Opinions:
    labels: Opinions = {}
    by_judge = _by_pair(judgements, known, "judgements", ("judge", "benchmark", "model"))
    for (judge, name, model), by_id in by_judge.items():
        if model not in written[name]:
            raise ValueError(f"{judge!r} judged {model!r} on {name}, of which there are no instructions")
        where = f"judgements of {model!r} by {judge!r}"
        labels.setdefault(judge, {}).setdefault(name, {})[model] = _opinions(
            by_id, written[name][model], known[name], where
        )
    return {judge: {name: by_name[name] for name in known if name in by_name} for judge, by_name in labels.items()}


def _verdicts(known: dict[str, Benchmark], written: Written, verdicts: Sequence[HumanVerdict]) -> Verdicts:
    people: Verdicts = {name: {} for name in known}
    for (name, model), by_id in _by_pair(verdicts, known, "human verdicts", ("benchmark", "model")).items():
        if model not in written[name]:
            raise ValueError(f"people judged {model!r} on {name}, of which there are no instructions")
        _check_known(by_id, known[name], f"human verdicts of {model!r}")
        for pair_id, given in by_id.items():
            _check_once([verdict.annotator for verdict in given], f"human verdicts of {model!r} on {name}, {pair_id}")
        people[name][model] = by_id
    return people


def _opinions(
    by_id: Mapping[str, list[Judgement]], written: Mapping[str, Instruction], benchmark: Benchmark, where: str
) -> dict[str, Labels]:
    """Pair id -> opinion, in the benchmark's order."""
    _check_known(by_id, benchmark, where)
    missing = [pair_id for pair_id in benchmark.ids if pair_id not in by_id and written[pair_id].reason is None]
    if missing:
        raise ValueError(
            f"{where} on {benchmark.name} lack {len(missing)} of {len(benchmark)} ids (first: {missing[0]}); finish "
            "the judging: what a judge cannot score has a row that says why"
        )
    opinions: dict[str, Labels] = {}
    for pair_id in benchmark.ids:
        if pair_id in by_id:
            _check_once([one.repeat for one in by_id[pair_id]], f"{where} on {benchmark.name}, {pair_id}")
            opinions[pair_id] = merge(by_id[pair_id])
        else:
            reason = written[pair_id].reason
            assert reason is not None, "a text without an opinion is one that was not written, with its reason"
            opinions[pair_id] = Labels(0, unscored=dict.fromkeys(DIMENSIONS, reason))
    return opinions


def _by_pair[Row: Instruction | Judgement | HumanVerdict](
    records: Iterable[Row], known: dict[str, Benchmark], where: str, keys: tuple[str, ...]
) -> dict[tuple[str, ...], dict[str, list[Row]]]:
    """Values of `keys` -> pair id -> records."""
    grouped: dict[tuple[str, ...], dict[str, list[Row]]] = {}
    for record in records:
        if record.benchmark not in known:
            raise ValueError(f"{where} hold benchmark {record.benchmark!r}; this report is of {', '.join(known)}")
        values = tuple(getattr(record, key) for key in keys)
        grouped.setdefault(values, {}).setdefault(record.id, []).append(record)
    return grouped


def _check_known(by_id: Mapping[str, object], benchmark: Benchmark, where: str) -> None:
    known = set(benchmark.ids)
    extra = [pair_id for pair_id in by_id if pair_id not in known]
    if extra:
        raise ValueError(
            f"{where}: {len(extra)} ids are not of benchmark {benchmark.name} (first: {extra[0]}): they were made for "
            "another list of ids; give the list that they were made for, or make them again (generate, judge, execute; "
            "what did not change costs nothing)"
        )


def _check_once(keys: Sequence[object], where: str) -> None:
    twice = [key for key, count in Counter(keys).items() if count > 1]
    if twice:
        raise ValueError(f"{where}: {twice[0]!r} is there more than once")
