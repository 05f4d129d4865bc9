"""What a run would ask of whom: counted from the settings and from what is written already. Nothing is sent, and
nothing is written."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from editcaption_mega.evaluation.benchmarks import Benchmark
from editcaption_mega.evaluation.engines import given
from editcaption_mega.evaluation.generate import Part, missing_positions
from editcaption_mega.evaluation.judge.code_judges import code_judge
from editcaption_mega.evaluation.judge.perturbations import FlippedBenchmark, perturbations
from editcaption_mega.evaluation.texts import MadeTexts
from editcaption_mega.records import DIMENSIONS
from editcaption_mega.settings import CandidateSettings, EvaluationSettings, JudgeSettings

STEPS = ("generate", "judge", "execute")


@dataclass(frozen=True)
class Demand:
    """What one model, judge or editor would be asked about one benchmark."""

    who: str
    benchmark: str
    asked: str  # of what: an address and the server's name of the model, or a folder; "" for code, which asks nobody
    requests: int
    what: str  # how the number comes about

    def __str__(self) -> str:
        demand = f"{self.requests:,} of {self.asked}" if self.asked else "asks nobody"
        return f"{self.benchmark}, {self.who}: {demand} ({self.what})"


def demands(
    settings: EvaluationSettings, benchmarks: list[Benchmark], steps: Collection[str], part: Part | None = None
) -> Iterator[Demand]:
    """Of the steps (of STEPS), in their order. Judges and editors are asked about instructions that may not be written
    yet: for them these are the most; what their cache has costs nothing. part: of the generation."""
    for benchmark in benchmarks:
        if "generate" in steps:
            for model in settings.models:
                yield _texts(settings, model, benchmark, part or Part())
        instructions = sum(_expected(settings, model, benchmark) for model in settings.models)
        if "judge" in steps:
            for judge in settings.judges:
                yield _judgements(judge, benchmark, instructions)
        if "execute" in steps and settings.editor.url:
            asked = f"{settings.editor.url}, {settings.editor.model}"
            yield Demand("the editor", benchmark.name, asked, instructions, "at most: one edit for each instruction")


def _texts(settings: EvaluationSettings, model: CandidateSettings, benchmark: Benchmark, part: Part) -> Demand:
    who = f"model {model.name}"
    if model.origin == "instructions":
        return Demand(who, benchmark.name, model.instructions, 0, "its texts are given")
    made = MadeTexts(Path(settings.output), model.name, benchmark.name).read()
    positions = part.positions(benchmark)
    missing = missing_positions(benchmark, positions, made)
    asked = {
        "folder": f"{model.folder}, in this process",
        "vllm": f"{model.vllm}, in vLLM",
        "endpoint": f"{model.endpoint.url}, {model.endpoint.model}",
    }
    what = f"{len(positions) - len(missing):,} of {len(positions):,} texts are written"
    return Demand(who, benchmark.name, asked[model.origin], len(missing), what)


def _judgements(judge: JudgeSettings, benchmark: Benchmark, instructions: int) -> Demand:
    who = f"judge {judge.name}"
    if judge.kind != "model":
        return Demand(who, benchmark.name, "", 0, code_judge(judge.kind).about)
    what = f"at most: {instructions:,} instructions x {len(DIMENSIONS)} dimensions"
    what += f" x {judge.repeats} repeats" if judge.repeats > 1 else ""
    requests = instructions * len(DIMENSIONS) * judge.repeats
    return Demand(who, benchmark.name, f"{judge.endpoint.url}, {judge.endpoint.model}", requests, what)


def check_demand(judge: JudgeSettings, benchmark: Benchmark) -> Demand:
    """What `check-judge` would ask: about each text that it makes worse, and about the truth of mirrored pictures."""
    texts = [*perturbations(benchmark).values(), *FlippedBenchmark(benchmark).truths().values()]
    return _judgements(judge, benchmark, sum(row.instruction is not None for by_id in texts for row in by_id.values()))


def _expected(settings: EvaluationSettings, model: CandidateSettings, benchmark: Benchmark) -> int:
    """Instructions that are there, or may come."""
    if model.origin == "instructions":
        return sum(one.instruction is not None for one in given(model, benchmark))
    made = MadeTexts(Path(settings.output), model.name, benchmark.name).read()
    positions = range(len(benchmark))
    missing = set(missing_positions(benchmark, positions, made))
    return sum(i in missing or made[benchmark.key(i)].instruction is not None for i in positions)
