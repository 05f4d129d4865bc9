"""What every judge says of every instruction."""

import contextlib
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import product
from pathlib import Path

from editcaption_mega.evaluation.benchmarks import Benchmark
from editcaption_mega.evaluation.judge.code_judges import code_judge
from editcaption_mega.evaluation.judge.model_judge import judge_benchmark, judged_digest, rule_judge_benchmark
from editcaption_mega.evaluation.judge.validation import JudgeFunction
from editcaption_mega.evaluation.record_files import read_records, write_records
from editcaption_mega.inference.endpoint.messages import Usage
from editcaption_mega.lock import FolderLock, HeldError
from editcaption_mega.progress import Progress
from editcaption_mega.records import DIMENSIONS, Instruction, Judgement
from editcaption_mega.records.evaluation import Dimension
from editcaption_mega.settings import EvaluationSettings, JudgeSettings

from .generation import Texts


@contextlib.contextmanager
def sole_finisher(output: Path) -> Iterator[str]:
    """ "", or who else judges and reports already in `output`: two parts may end at once, and both would pay for the
    judges. Raises OSError for a folder that cannot be written."""
    lock = FolderLock(output, "judging")
    try:
        lock.acquire()
    except HeldError as error:
        yield str(error)
        return
    try:
        yield ""
    finally:
        lock.release()


def judge_function(
    judge: JudgeSettings, settings: EvaluationSettings, progress: Progress, usage: Usage | None = None
) -> JudgeFunction:
    """The judge of the settings as a function of a benchmark and the instructions for it."""
    if judge.kind != "model":
        return partial(rule_judge_benchmark, name=judge.name, kind=judge.kind)

    def ask(benchmark: Benchmark, instructions: Mapping[str, Mapping[str, Instruction]]) -> dict[str, list[Judgement]]:
        return judge_benchmark(
            benchmark, instructions, judge, Path(settings.output) / "cache", pictures=settings.generation,
            seed=settings.seed, progress=progress, usage=usage,
        )  # fmt: skip

    return ask


def dimensions_of(judge: JudgeSettings) -> tuple[Dimension, ...]:
    """The dimensions that it scores: a model all of them."""
    return DIMENSIONS if judge.kind == "model" else code_judge(judge.kind).dimensions


def judgements_path(output: Path, judge: str, model: str, stem: str) -> Path:
    """stem: the benchmark's."""
    return output / "judgements" / judge / model / f"{stem}.jsonl"


def judge_all(
    settings: EvaluationSettings, benchmarks: list[Benchmark], texts: Mapping[str, Texts], progress: Progress
) -> tuple[list[Judgement], dict[str, Usage]]:
    """All judgements, written to their files too, and what each judge's calls of this run came to."""
    if not settings.judges:
        raise ValueError("judges is empty: name at least one (kind: rule for the synthetic world)")
    judgements: list[Judgement] = []
    usages = {judge.name: Usage() for judge in settings.judges}
    for judge in settings.judges:
        function = judge_function(judge, settings, progress, usages[judge.name])
        for benchmark in benchmarks:
            for model, made in function(benchmark, texts[benchmark.name]).items():
                write_records(judgements_path(Path(settings.output), judge.name, model, benchmark.stem), made)
                judgements += made
    return judgements, usages


def written_judgements(
    settings: EvaluationSettings, benchmarks: list[Benchmark], texts: Mapping[str, Texts]
) -> list[Judgement]:
    """What `judge_all` wrote. Raises ValueError when a file is not there, or is of other texts or another truth."""
    judgements = []
    for benchmark in benchmarks if settings.judges else ():
        truths = {pair.id: pair.changes for pair in benchmark.pairs()}
        for judge, model in product(settings.judges, settings.models):
            path = judgements_path(Path(settings.output), judge.name, model.name, benchmark.stem)
            if not path.is_file():
                raise ValueError(f"{path} does not exist: run editcaption evaluate judge first, with the same settings")
            made = read_records(path, Judgement)
            written = texts[benchmark.name][model.name]
            outdated = [
                one.id
                for one in made
                if one.id in written
                and (truth := truths[one.id]) is not None
                and one.provenance.get("judged") != judged_digest(written[one.id], truth)
            ]
            if outdated:
                raise ValueError(
                    f"{path} holds {len(outdated)} judgements of another text or another ground truth than are there "
                    f"now (first: {outdated[0]}): run editcaption evaluate judge again; what did not change costs "
                    "nothing"
                )
            judgements += made
    return judgements
