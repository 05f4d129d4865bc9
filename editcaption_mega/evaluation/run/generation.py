"""The instructions of all models for all benchmarks."""

from collections.abc import Iterator
from pathlib import Path

from editcaption_mega.evaluation.benchmarks import Benchmark
from editcaption_mega.evaluation.generate import Part, collect, generate, instructions_path
from editcaption_mega.progress import Progress
from editcaption_mega.records import Instruction
from editcaption_mega.settings import CandidateSettings, EvaluationSettings, save_settings

Texts = dict[str, dict[str, Instruction]]  # model -> pair id -> instruction


def limit_suffix(settings: EvaluationSettings) -> str:
    """What the files and folders of a run of the first pairs alone have after their names; its benchmarks have it too
    (`Benchmark.stem`)."""
    return f".first-{settings.limit}" if settings.limit else ""


def generate_all(
    settings: EvaluationSettings, benchmarks: list[Benchmark], progress: Progress, part: Part | None = None
) -> None:
    """Have every model write what it has not yet written; of a divided run, this part's share."""
    output = Path(settings.output)
    output.mkdir(parents=True, exist_ok=True)
    save_settings(settings, output / f"config{limit_suffix(settings)}.yaml")
    for model, benchmark in _works(settings, benchmarks):
        generate(model, benchmark, settings.generation, output, part=part, progress=progress)


def collect_all(settings: EvaluationSettings, benchmarks: list[Benchmark]) -> dict[str, Texts] | None:
    """benchmark -> model -> pair id -> instruction, put together of what all parts wrote; None while one is missing.

    A part calls this once it has nothing left to do: the one that ends last sees the texts of all others."""
    texts: dict[str, Texts] = {benchmark.name: {} for benchmark in benchmarks}
    for model, benchmark in _works(settings, benchmarks):
        instructions = collect(model, benchmark, settings.generation, Path(settings.output))
        if instructions is None:
            return None
        texts[benchmark.name][model.name] = {instruction.id: instruction for instruction in instructions}
    return texts


def written_instructions(settings: EvaluationSettings, benchmarks: list[Benchmark]) -> dict[str, Texts]:
    """As `collect_all`. Raises ValueError, naming the first file, when some are missing."""
    texts = collect_all(settings, benchmarks)
    if texts is not None:
        return texts
    for model, benchmark in _works(settings, benchmarks):
        if collect(model, benchmark, settings.generation, Path(settings.output)) is None:
            break
    raise ValueError(
        f"{instructions_path(Path(settings.output), model.name, benchmark.stem)} is not whole: of some pairs there is "
        "no text made from these pictures; run editcaption evaluate generate first, with the same settings"
    )


def _works(settings: EvaluationSettings, benchmarks: list[Benchmark]) -> Iterator[tuple[CandidateSettings, Benchmark]]:
    return ((model, benchmark) for model in settings.models for benchmark in benchmarks)
