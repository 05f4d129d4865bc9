"""What comes before any work: the benchmarks are opened, and what would stop the run later is refused."""

from pathlib import Path

from editcaption_mega.data.text.prompt import Prompt
from editcaption_mega.evaluation.benchmarks import Benchmark, read_ids
from editcaption_mega.evaluation.ground_truth import read_ground_truth
from editcaption_mega.evaluation.judge.code_judges import code_judge
from editcaption_mega.evaluation.record_files import read_records
from editcaption_mega.evaluation.report.training_runs import read_run
from editcaption_mega.inference.endpoint.address import Endpoint, refuse_mixed
from editcaption_mega.inference.local.folder import check_folder, check_model
from editcaption_mega.inference.serving.vllm_adapters import VllmAdapter
from editcaption_mega.records import HumanVerdict
from editcaption_mega.settings import BenchmarkSettings, CandidateSettings, EvaluationSettings, JudgeSettings

from .executing import editor_of, measures_of_settings

# Of a judge's requests; repeats and modes share their replies.
_SHAPING = ("rules_role", "show_model", "max_tokens", "temperature", "top_p")


def open_benchmark(settings: BenchmarkSettings, limit: int = 0) -> Benchmark:
    """limit: so many of the first pairs alone. Raises ValueError for shards, ids or ground truth that do not fit."""
    ids = read_ids(settings.ids) if settings.ids else None
    benchmark = Benchmark(settings.name, settings.shards, ids)
    if settings.ground_truth:
        truth = read_ground_truth(settings.ground_truth, benchmark)
        benchmark = Benchmark(settings.name, settings.shards, ids, truth)
    return benchmark.first(limit) if limit else benchmark


def open_benchmarks(settings: EvaluationSettings) -> list[Benchmark]:
    return [open_benchmark(one, settings.limit) for one in settings.benchmarks]


def check_before_work(settings: EvaluationSettings, benchmarks: list[Benchmark], *, judging: bool) -> None:
    """Raises ValueError for what would stop the run later: keys, folders, files, ground truth, measures."""
    Prompt.load(settings.generation.prompt)
    for judge in settings.judges:
        if judge.kind != "model":
            code_judge(judge.kind)
    _check_endpoints(settings, judging=judging)
    for model in settings.models:
        _check_model(model, settings, benchmarks)
    for name, folder in settings.report.training.items():
        read_run(name, folder)
    if not judging:
        return
    for benchmark in benchmarks if settings.judges else ():
        _check_ground_truth(settings.judges, benchmark)
    for path in settings.human:
        read_records(path, HumanVerdict)
    if settings.editor.url:
        editor_of(settings).secret()
        measures_of_settings(settings)


def _check_endpoints(settings: EvaluationSettings, *, judging: bool) -> None:
    """Each has its key, and no two would share their replies."""
    candidates = {
        f"model {model.name}": Endpoint.of(model.endpoint, settings.generation)
        for model in settings.models
        if model.origin == "endpoint"
    }
    judges = {
        f"judge {judge.name}": Endpoint.of(judge.endpoint, settings.generation)
        for judge in settings.judges
        if judge.kind == "model"
    }
    shapes = {f"judge {judge.name}": {name: getattr(judge, name) for name in _SHAPING} for judge in settings.judges}
    refuse_mixed(candidates, judges, shapes)
    for endpoint in (*candidates.values(), *(judges.values() if judging else ())):
        endpoint.secret()


def _check_model(model: CandidateSettings, settings: EvaluationSettings, benchmarks: list[Benchmark]) -> None:
    if model.origin == "folder":
        from editcaption_mega.data.batching.dataset import read_folder  # PyTorch is waited for where it is used

        check_model(model.folder)
        generation = settings.generation
        read_folder(
            model.folder,
            min_pixels=generation.min_pixels,
            max_pixels=generation.max_pixels,
            prompt=generation.prompt,
        )
    elif model.origin == "vllm":
        check_folder(model.vllm)
        VllmAdapter.of(model.vllm)
    elif model.origin == "instructions":
        for benchmark in benchmarks:
            path = Path(model.instructions) / f"{benchmark.name}.jsonl"
            if not path.is_file():
                raise ValueError(f"model {model.name}: {path} does not exist; instructions= names a folder of such")


def _check_ground_truth(judges: list[JudgeSettings], benchmark: Benchmark) -> None:
    pairs = benchmark.pairs()
    for judge in judges:
        needs_facts = judge.kind != "model" and code_judge(judge.kind).needs_facts
        bare = [
            pair.id
            for pair in pairs
            if pair.changes is None or (needs_facts and any(change.facts is None for change in pair.changes.primary))
        ]
        if bare:
            needed = "machine-readable truth (changes with facts)" if needs_facts else "ground truth (changes)"
            raise ValueError(
                f"judge {judge.name}: {len(bare)} of {len(benchmark)} pairs of {benchmark.name} have no {needed}; "
                f"first: {bare[0]}. Make it with editcaption evaluate ground-truth, or leave judges out"
            )
