"""Blind execution: an editor applies each instruction to the source, and the result is compared with the target.

The paper names this as missing. It measures what the rubric's clarity asks for: whether the edit can be made by
somebody who never saw the target. The editor's own skill is in the numbers too, so they compare models under one
editor; `copy` (the untouched source compared with the target) is what doing nothing scores."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from editcaption_mega.data.images.decode import ImageError
from editcaption_mega.evaluation.benchmarks import Benchmark
from editcaption_mega.evaluation.record_files import write_records
from editcaption_mega.evaluation.stats.intervals import bootstrap_interval
from editcaption_mega.inference.endpoint.address import Endpoint
from editcaption_mega.inference.endpoint.image_edits import MAX_PIXELS, Edit, edit_pictures
from editcaption_mega.progress import Progress, no_progress
from editcaption_mega.records import Instruction
from editcaption_mega.records.evaluation import EvaluationRecord

from .measures import Measure, measure_images

COPY = "copy"  # the name under which doing nothing is scored


class Execution(EvaluationRecord):
    """How near to the target an instruction led: measure -> value. Without them, why."""

    benchmark: str
    id: str
    model: str
    editor: str
    measures: dict[str, float] | None = None
    reason: str | None = None


def execute(
    benchmark: Benchmark,
    instructions: Mapping[str, Mapping[str, Instruction]],
    editor: Endpoint,
    output: Path,
    measures: Mapping[str, Measure],
    *,
    size: str = "",
    max_pixels: int = MAX_PIXELS,
    progress: Progress = no_progress,
) -> dict[str, list[Execution]]:
    """model -> one row per pair in the benchmark's order, and the same under `copy`.

    Pictures and rows are kept under OUTPUT/executions/MODEL/BENCHMARK. Raises ValueError for ids that do not fit."""
    if COPY in instructions:
        raise ValueError(f"a model is named {COPY!r}, which is the name of doing nothing: rename it")
    by_model: dict[str, list[Execution]] = {}
    for model, rows in instructions.items():
        benchmark.check_join(rows, f"the instructions of {model}")
        folder = output / "executions" / model / benchmark.name
        edits = _edits(benchmark, rows)
        count = sum(bool((row.instruction or "").strip()) for row in rows.values())
        done = edit_pictures(
            editor,
            edits,
            folder,
            size=size,
            max_pixels=max_pixels,
            cache=output / "cache",
            progress=progress,
            total=count,
        )
        made = {one.id: one for one in done}
        by_model[model] = []
        for item in benchmark:
            who = {"benchmark": benchmark.name, "id": item.pair.id, "model": model, "editor": editor.model}
            one = made.get(item.pair.id)
            if one is None:
                row = Execution(**who, reason=rows[item.pair.id].reason or "the instruction is empty")
            elif one.path is None:
                row = Execution(**who, reason=one.reason)
            else:
                row = _compared(who, one.path.read_bytes(), item.target, measures)
            by_model[model].append(row)
        write_records(executions_path(output, model, benchmark.stem), by_model[model])
    who = {"benchmark": benchmark.name, "model": COPY, "editor": COPY}
    by_model[COPY] = [_compared(who | {"id": item.pair.id}, item.source, item.target, measures) for item in benchmark]
    write_records(executions_path(output, COPY, benchmark.stem), by_model[COPY])
    return by_model


def executions_path(output: Path, model: str, stem: str) -> Path:
    """stem: the benchmark's."""
    return output / "executions" / model / f"{stem}.jsonl"


def _edits(benchmark: Benchmark, rows: Mapping[str, Instruction]) -> Iterator[Edit]:
    for item in benchmark:
        text = (rows[item.pair.id].instruction or "").strip()
        if text:
            yield Edit(item.pair.id, item.source, text)


def _compared(who: dict[str, Any], result: bytes, target: bytes, measures: Mapping[str, Measure]) -> Execution:
    try:
        return Execution(**who, measures=measure_images(result, target, measures))
    except ImageError as error:
        return Execution(**who, reason=str(error))


@dataclass(frozen=True)
class ExecutionMean:
    """A model's mean of one measure with its 95 % interval, over the pairs that were executed."""

    model: str
    measure: str
    mean: float
    interval: tuple[float, float]
    executed: int
    failed: int


def summarize(by_model: Mapping[str, Sequence[Execution]], seed: int = 0) -> list[ExecutionMean]:
    rows = []
    for model, executions in by_model.items():
        done = [row.measures for row in executions if row.measures is not None]
        for measure in done[0] if done else ():
            values = [one[measure] for one in done]
            rows.append(
                ExecutionMean(
                    model, measure, sum(values) / len(values), bootstrap_interval(values, seed=seed), len(done),
                    len(executions) - len(done),
                )
            )  # fmt: skip
    return rows
