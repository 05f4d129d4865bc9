"""Every instruction executed by an image editor, where one is named."""

from collections.abc import Mapping
from pathlib import Path

from editcaption_mega.evaluation.benchmarks import Benchmark
from editcaption_mega.evaluation.execution.execute import COPY, Execution, execute, executions_path
from editcaption_mega.evaluation.execution.measures import Measure, measures_of
from editcaption_mega.evaluation.record_files import read_records
from editcaption_mega.inference.endpoint.address import Endpoint
from editcaption_mega.progress import Progress
from editcaption_mega.settings import EvaluationSettings

from .generation import Texts

Executions = dict[str, dict[str, list[Execution]]]  # benchmark -> model -> how near each instruction led


def editor_of(settings: EvaluationSettings) -> Endpoint:
    return Endpoint.of(settings.editor, settings.generation)


def measures_of_settings(settings: EvaluationSettings) -> dict[str, Measure]:
    """Raises ValueError for what is not there."""
    return measures_of(settings.editor.measures, settings.editor.clip)


def execute_all(
    settings: EvaluationSettings, benchmarks: list[Benchmark], texts: Mapping[str, Texts], progress: Progress
) -> Executions:
    """Raises ValueError when no editor is named."""
    if not settings.editor.url:
        raise ValueError("editor.url is empty: name an image-editing endpoint")
    measures = measures_of_settings(settings)
    return {
        benchmark.name: execute(
            benchmark, texts[benchmark.name], editor_of(settings), Path(settings.output), measures,
            size=settings.editor.size, max_pixels=settings.editor.max_pixels, progress=progress,
        )
        for benchmark in benchmarks
    }  # fmt: skip


def written_executions(settings: EvaluationSettings, benchmarks: list[Benchmark]) -> Executions:
    """What `execute_all` wrote; nothing when no editor is named. Raises ValueError when a file is not there."""
    executions: Executions = {}
    for benchmark in benchmarks if settings.editor.url else ():
        names = (*(model.name for model in settings.models), COPY)
        paths = {name: executions_path(Path(settings.output), name, benchmark.stem) for name in names}
        for path in paths.values():
            if not path.is_file():
                raise ValueError(
                    f"{path} does not exist: run editcaption evaluate execute first, with the same settings"
                )
        executions[benchmark.name] = {name: read_records(path, Execution) for name, path in paths.items()}
    return executions
