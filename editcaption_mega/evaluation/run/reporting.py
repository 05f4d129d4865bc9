"""The report of a run, from what its steps came to."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from editcaption_mega.evaluation.benchmarks import Benchmark
from editcaption_mega.evaluation.execution.execute import Execution
from editcaption_mega.evaluation.record_files import read_records
from editcaption_mega.evaluation.report.join import join
from editcaption_mega.evaluation.report.page.html import ReportOptions
from editcaption_mega.evaluation.report.provenance import facts_of
from editcaption_mega.evaluation.report.tables.execution_table import execution_table
from editcaption_mega.evaluation.report.training_runs import read_run
from editcaption_mega.evaluation.report.write import write_report
from editcaption_mega.evaluation.rubric.paper_tables import paper_tables
from editcaption_mega.progress import Progress
from editcaption_mega.records import HumanVerdict, Judgement
from editcaption_mega.settings import EvaluationSettings

from .generation import Texts, limit_suffix


def write_run_report(
    settings: EvaluationSettings,
    benchmarks: list[Benchmark],
    texts: Mapping[str, Texts],
    judgements: Sequence[Judgement],
    executions: Mapping[str, Mapping[str, Sequence[Execution]]],
    progress: Progress,
) -> dict[str, Any]:
    """Write OUTPUT/report -> its numbers. Raises ValueError as `join` and `write_report` do."""
    instructions = [one for by_model in texts.values() for by_id in by_model.values() for one in by_id.values()]
    joined = join(benchmarks, instructions, judgements, _verdicts(settings.human, benchmarks))
    executed, wanted = execution_table(executions, settings.seed), settings.report
    options = ReportOptions(
        title=wanted.title,
        introduction=wanted.introduction,
        facts=[*facts_of(settings, benchmarks, instructions, judgements), *wanted.notes.items()],
        paper=paper_tables(),
        ablation=settings.ablation or None,
        more_tables=[executed] if executed else [],
        before_after=(wanted.before, wanted.after) if wanted.before else None,
        training=[read_run(name, folder) for name, folder in wanted.training.items()],
    )
    return write_report(report_folder(settings), joined, options, progress=progress)


def report_folder(settings: EvaluationSettings) -> Path:
    return Path(settings.output) / f"report{limit_suffix(settings)}"


def _verdicts(paths: Iterable[str], benchmarks: Iterable[Benchmark]) -> list[HumanVerdict]:
    left_out = {benchmark.name: benchmark.left_out for benchmark in benchmarks}
    given = (verdict for path in paths for verdict in read_records(path, HumanVerdict))
    return [verdict for verdict in given if verdict.id not in left_out.get(verdict.benchmark, ())]
