"""An evaluation from its settings: benchmarks, instructions, judgements, people's verdicts, report.

    OUTPUT/config.yaml                                  the settings, resolved
    OUTPUT/instructions/MODEL/BENCHMARK.jsonl           Instruction rows
    OUTPUT/judgements/JUDGE/MODEL/BENCHMARK.jsonl       Judgement rows
    OUTPUT/executions/MODEL/BENCHMARK.jsonl             Execution rows, where an editor is named
    OUTPUT/cache/                                       every reply of every endpoint, and every call
    OUTPUT/report/                                      report.html, tables.{md,csv,tex}, numbers.json

Each step takes what the one before left there; killed at any point, the same command goes on."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

from editcaption_mega.data.batching.dataset import read_folder
from editcaption_mega.data.text.prompt import Prompt
from editcaption_mega.evaluation.execution.execute import COPY, Execution, execute, executions_path
from editcaption_mega.evaluation.execution.measures import measures_of
from editcaption_mega.evaluation.judge.model_judge import judge_benchmark, judged_digest, rule_judge_benchmark
from editcaption_mega.evaluation.judge.validation import JudgeFunction
from editcaption_mega.evaluation.report.execution_table import execution_table
from editcaption_mega.evaluation.report.provenance import facts_of
from editcaption_mega.evaluation.report.write import write_report
from editcaption_mega.evaluation.rubric.paper_tables import paper_tables
from editcaption_mega.inference.endpoint.address import Endpoint, refuse_mixed
from editcaption_mega.inference.endpoint.messages import Usage
from editcaption_mega.inference.local.folder import check_folder, check_model
from editcaption_mega.lock import FolderLock, HeldError
from editcaption_mega.progress import Progress
from editcaption_mega.records import HumanVerdict, Instruction, Judgement
from editcaption_mega.settings import BenchmarkSettings, EvaluationSettings, JudgeSettings, save_settings

from .benchmarks import Benchmark, read_ids
from .engines import GIVEN_MEND, NOT_GIVEN
from .generate import Part, collect, instructions_path, make
from .ground_truth import read_ground_truth
from .record_files import read_records, write_records

Texts = dict[str, dict[str, Instruction]]  # model -> pair id -> instruction


def open_benchmark(settings: BenchmarkSettings) -> Benchmark:
    ids = read_ids(settings.ids) if settings.ids else None
    plain = Benchmark(settings.name, settings.shards, ids)
    if not settings.ground_truth:
        return plain
    return Benchmark(settings.name, settings.shards, ids, read_ground_truth(settings.ground_truth, plain))


def open_benchmarks(settings: EvaluationSettings) -> list[Benchmark]:
    return [open_benchmark(one) for one in settings.benchmarks]


def check_before_work(settings: EvaluationSettings, benchmarks: list[Benchmark], *, judging: bool) -> None:
    """Raises ValueError for what would stop the run later: keys, folders, files, ground truth, measures."""
    Prompt.load(settings.generation.prompt)
    candidates = {
        f"model {one.name}": Endpoint.of(one.endpoint, settings.generation)
        for one in settings.models
        if one.origin == "endpoint"
    }
    judges = {
        f"judge {one.name}": Endpoint.of(one.endpoint, settings.generation)
        for one in settings.judges
        if one.kind == "model"
    }
    # Of a judge's requests; repeats and modes share their replies.
    shaping = ("rules_role", "show_model", "max_tokens", "temperature", "top_p")
    asking = {f"judge {one.name}": {name: getattr(one, name) for name in shaping} for one in settings.judges}
    refuse_mixed(candidates, judges, asking)
    for endpoint in (*candidates.values(), *(judges.values() if judging else ())):
        endpoint.secret()
    for model in settings.models:
        if model.origin == "folder":
            check_model(model.folder)
            made = settings.generation
            read_folder(model.folder, min_pixels=made.min_pixels, max_pixels=made.max_pixels, prompt=made.prompt)
        elif model.origin == "vllm":
            check_folder(model.vllm)
        elif model.origin == "instructions":
            for benchmark in benchmarks:
                path = Path(model.instructions) / f"{benchmark.name}.jsonl"
                if not path.is_file():
                    raise ValueError(f"model {model.name}: {path} does not exist; instructions= names a folder of such")
    if not judging:
        return
    for benchmark in benchmarks if settings.judges else ():
        pairs = benchmark.pairs()
        for judge in settings.judges:
            needs_facts = judge.kind == "rule"
            bare = [
                pair.id
                for pair in pairs
                if pair.changes is None or (needs_facts and any(c.facts is None for c in pair.changes.primary))
            ]
            if bare:
                what = "machine-readable truth (changes with facts)" if needs_facts else "ground truth (changes)"
                raise ValueError(
                    f"judge {judge.name}: {len(bare)} of {len(benchmark)} pairs of {benchmark.name} have no {what}; "
                    f"first: {bare[0]}. Make it with tools/evaluate.py ground-truth, or leave judges out"
                )
    for path in settings.human:
        read_records(path, HumanVerdict)
    if settings.editor.url:
        editor_of(settings).secret()
        measures_of(settings.editor.measures, settings.editor.clip)


def generate_all(
    settings: EvaluationSettings, benchmarks: list[Benchmark], progress: Progress, part: Part | None = None
) -> dict[str, Texts] | None:
    """benchmark -> model -> pair id -> instruction; None while other parts are missing."""
    output = Path(settings.output)
    output.mkdir(parents=True, exist_ok=True)
    save_settings(settings, output / "config.yaml")
    works = [(model, benchmark) for model in settings.models for benchmark in benchmarks]
    for model, benchmark in works:
        make(model, benchmark, settings.generation, output, part=part, progress=progress)
    # Now that this part has nothing left to do: the part that ends last sees the texts of all others.
    found: dict[str, Texts] = {benchmark.name: {} for benchmark in benchmarks}
    for model, benchmark in works:
        rows = collect(model, benchmark, settings.generation, output)
        if rows is None:
            return None
        found[benchmark.name][model.name] = {row.id: row for row in rows}
    return found


@contextlib.contextmanager
def alone(output: Path) -> Iterator[str]:
    """Who else goes on from here with the run in `output`, "" for nobody: two parts may end at once, and both would
    pay for the judges. Raises OSError for a folder that cannot be written."""
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


@dataclass(frozen=True)
class Failure:
    """Something that a step was for and that did not come about."""

    sentence: str
    mend: str


_AGAIN = "mend the cause and give the same command again, which asks for these"
_REFUSED = "refusals are kept, so change the prompt or the model and name a new output"


def without_success(
    texts: Mapping[str, Texts],
    judgements: Iterable[Judgement] = (),
    executions: Mapping[str, Mapping[str, list[Execution]]] | None = None,
) -> list[Failure]:
    """One for each model that wrote nothing for a benchmark, each judge that scored nothing, and each model of which
    the editor executed nothing."""
    found = []
    for benchmark, models in texts.items():
        for model, rows in models.items():
            if all(row.instruction is None for row in rows.values()):
                reasons = [row.reason for row in rows.values()]
                mend = GIVEN_MEND if reasons[0].startswith(NOT_GIVEN) else _mend(reasons)
                found.append(Failure(f"{model} wrote no instruction for {benchmark} ({reasons[0]})", mend))
    judged: dict[str, list[Judgement]] = {}
    for row in judgements:
        if texts[row.benchmark][row.model][row.id].instruction is not None:
            judged.setdefault(row.judge, []).append(row)
    for judge, rows in judged.items():
        if not any(row.scores for row in rows):
            reasons = [next(iter(row.unscored.values())) for row in rows]
            found.append(Failure(f"judge {judge} scored nothing ({reasons[0]})", _mend(reasons)))
    for benchmark, by_model in (executions or {}).items():
        for model, rows in by_model.items():
            written = [row for row in rows if model == COPY or texts[benchmark][model][row.id].instruction is not None]
            if written and all(row.measures is None for row in written):
                what = f"no instruction of {model} for {benchmark} was executed ({written[0].reason})"
                found.append(Failure(what, _AGAIN))
    return found


def _mend(reasons: list[str]) -> str:
    refused = [reason.startswith("refused:") for reason in reasons]
    return _REFUSED if all(refused) else f"{_AGAIN}, but refusals are kept" if any(refused) else _AGAIN


def written_instructions(settings: EvaluationSettings, benchmarks: list[Benchmark]) -> dict[str, Texts]:
    """What `generate_all` left. Raises ValueError when some of it is not there."""
    output, found = Path(settings.output), {}
    for benchmark in benchmarks:
        found[benchmark.name] = {}
        for model in settings.models:
            rows = collect(model, benchmark, settings.generation, output)
            if rows is None:
                raise ValueError(
                    f"{instructions_path(output, model.name, benchmark.name)} is not whole: of some pairs there is no "
                    "text made from these pictures; run tools/evaluate.py generate first, with the same settings"
                )
            found[benchmark.name][model.name] = {row.id: row for row in rows}
    return found


def judge_function(
    judge: JudgeSettings, settings: EvaluationSettings, progress: Progress, usage: Usage | None = None
) -> JudgeFunction:
    if judge.kind == "rule":
        return partial(rule_judge_benchmark, name=judge.name)

    def ask(benchmark: Benchmark, instructions: Mapping) -> dict[str, list[Judgement]]:
        return judge_benchmark(
            benchmark, instructions, judge, Path(settings.output) / "cache", pictures=settings.generation,
            seed=settings.seed, progress=progress, usage=usage,
        )  # fmt: skip

    return ask


def judgements_path(output: Path, judge: str, model: str, benchmark: str) -> Path:
    return output / "judgements" / judge / model / f"{benchmark}.jsonl"


def judge_all(
    settings: EvaluationSettings, benchmarks: list[Benchmark], texts: dict[str, Texts], progress: Progress
) -> tuple[list[Judgement], dict[str, Usage]]:
    """All judgements, written to their files -> rows, and what each judge's calls of this run came to."""
    if not settings.judges:
        raise ValueError("judges is empty: name at least one (kind: rule for the synthetic world)")
    rows: list[Judgement] = []
    usages = {judge.name: Usage() for judge in settings.judges}
    for judge in settings.judges:
        function = judge_function(judge, settings, progress, usages[judge.name])
        for benchmark in benchmarks:
            for model, own in function(benchmark, texts[benchmark.name]).items():
                write_records(judgements_path(Path(settings.output), judge.name, model, benchmark.name), own)
                rows += own
    return rows, usages


def written_judgements(
    settings: EvaluationSettings, benchmarks: list[Benchmark], texts: dict[str, Texts]
) -> list[Judgement]:
    """What `judge_all` left. Raises ValueError when a file is not there, or is of other texts or another truth."""
    rows = []
    for benchmark in benchmarks if settings.judges else ():
        truths = {pair.id: pair.changes for pair in benchmark.pairs()}
        for judge, model in product(settings.judges, settings.models):
            path = judgements_path(Path(settings.output), judge.name, model.name, benchmark.name)
            if not path.is_file():
                raise ValueError(f"{path} does not exist: run tools/evaluate.py judge first, with the same settings")
            own = read_records(path, Judgement)
            written = texts[benchmark.name][model.name]
            other = [
                row.id
                for row in own
                if row.id in written
                and truths[row.id] is not None
                and row.provenance.get("judged") != judged_digest(written[row.id], truths[row.id])
            ]
            if other:
                raise ValueError(
                    f"{path} holds {len(other)} judgements of another text or another ground truth than are there now "
                    f"(first: {other[0]}): run tools/evaluate.py judge again; what did not change costs nothing"
                )
            rows += own
    return rows


def editor_of(settings: EvaluationSettings) -> Endpoint:
    return Endpoint.of(settings.editor, settings.generation)


def execute_all(
    settings: EvaluationSettings, benchmarks: list[Benchmark], texts: dict[str, Texts], progress: Progress
) -> dict[str, dict[str, list[Execution]]]:
    """benchmark -> model -> how near each instruction led. Raises ValueError when no editor is named."""
    if not settings.editor.url:
        raise ValueError("editor.url is empty: name an image-editing endpoint")
    measures = measures_of(settings.editor.measures, settings.editor.clip)
    return {
        benchmark.name: execute(
            benchmark, texts[benchmark.name], editor_of(settings), Path(settings.output), measures,
            size=settings.editor.size, max_pixels=settings.editor.max_pixels, progress=progress,
        )
        for benchmark in benchmarks
    }  # fmt: skip


def written_executions(
    settings: EvaluationSettings, benchmarks: list[Benchmark]
) -> dict[str, dict[str, list[Execution]]]:
    """What `execute_all` left; nothing when no editor is named. Raises ValueError when a file is not there."""
    found: dict[str, dict[str, list[Execution]]] = {}
    for benchmark in benchmarks if settings.editor.url else ():
        paths = {
            name: executions_path(Path(settings.output), name, benchmark.name)
            for name in (*(model.name for model in settings.models), COPY)
        }
        for path in paths.values():
            if not path.is_file():
                raise ValueError(f"{path} does not exist: run tools/evaluate.py execute first, with the same settings")
        found[benchmark.name] = {name: read_records(path, Execution) for name, path in paths.items()}
    return found


def report(
    settings: EvaluationSettings,
    benchmarks: list[Benchmark],
    texts: dict[str, Texts],
    judgements: list[Judgement],
    executions: dict[str, dict[str, list[Execution]]] | None,
    progress: Progress,
    title: str = "Evaluation report",
) -> dict:
    """Write OUTPUT/report -> its numbers."""
    table = execution_table(executions or {}, settings.seed)
    verdicts = [row for path in settings.human for row in read_records(path, HumanVerdict)]
    rows = [row for models in texts.values() for by_id in models.values() for row in by_id.values()]
    numbers = write_report(
        Path(settings.output) / "report", benchmarks, rows, judgements, verdicts, title=title,
        facts=facts_of(settings, benchmarks, rows, judgements), paper=paper_tables(),
        ablation=settings.ablation or None, more_tables=[table] if table else [], progress=progress,
    )  # fmt: skip
    return numbers
