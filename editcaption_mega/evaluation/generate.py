"""Instructions of every model for every benchmark, whatever the models run on, from one prompt.

    OUTPUT/instructions/MODEL/BENCHMARK.jsonl   one Instruction per pair in the benchmark's order, when all are there
    OUTPUT/instructions/MODEL/BENCHMARK.json    the settings they were made with; a run with others is refused
    OUTPUT/instructions/MODEL/made/             every text that was made (`texts`)

Work that is killed goes on where it was, and what failed is asked for again by the same command. It may be divided:
part k of n makes what is missing of its pairs, and the last part to end puts all together."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from editcaption_mega.data.text.prompt import Prompt
from editcaption_mega.files import read_json_object, write_atomically
from editcaption_mega.inference.endpoint.address import Endpoint
from editcaption_mega.inference.local.folder import check_folder, folder_digests
from editcaption_mega.progress import Progress
from editcaption_mega.records import Instruction
from editcaption_mega.settings import CandidateSettings, GenerationSettings

from .benchmarks import Benchmark
from .engines import at_endpoint, given, in_process, in_vllm
from .record_files import write_records
from .texts import MadeTexts, is_definite

_ENGINES = {"folder": in_process, "endpoint": at_endpoint, "vllm": in_vllm}


@dataclass(frozen=True)
class Part:
    """Part `number` (from 0) of `count`: the pairs whose position in the benchmark is number, number + count, .."""

    number: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.number < self.count:
            raise ValueError(f"part {self.number} of {self.count}: expected a number from 0 to {self.count - 1}")

    def positions(self, benchmark: Benchmark) -> list[int]:
        return list(range(self.number, len(benchmark), self.count))

    @property
    def name(self) -> str:
        return "all" if self.count == 1 else f"part-{self.number:03d}-of-{self.count:03d}"


def instructions_path(output: Path, model: str, stem: str) -> Path:
    """stem: the benchmark's."""
    return output / "instructions" / model / f"{stem}.jsonl"


def identity_path(output: Path, model: str, benchmark: str) -> Path:
    return output / "instructions" / model / f"{benchmark}.json"


def generate(
    model: CandidateSettings,
    benchmark: Benchmark,
    settings: GenerationSettings,
    output: Path,
    *,
    part: Part | None = None,
    progress: Progress,
) -> None:
    """Have the model write whatever there is no text and no refusal of yet; `collect` has the texts.

    Raises ValueError for a folder of texts of other settings, and what the engine raises."""
    if model.origin == "instructions":
        return
    part = part or Part()
    _check_identity(identity_path(output, model.name, benchmark.name), _identity(model, settings))
    texts = MadeTexts(output, model.name, benchmark.name)
    positions = part.positions(benchmark)
    missing = missing_positions(benchmark, positions, texts.read())
    if not missing:
        return
    position = {benchmark.ids[i]: i for i in missing}
    cache = output / "cache" if part.count == 1 else output / "cache" / part.name
    with texts.writing(part.name) as keep:
        for row in _ENGINES[model.origin](model, benchmark, settings, positions, missing, cache, progress):
            keep(benchmark.key(position[row.id]), row)


def missing_positions(benchmark: Benchmark, positions: Iterable[int], made: Mapping[str, Instruction]) -> list[int]:
    """Those of whose pairs there is neither a text nor a refusal. made: by `Benchmark.key`."""
    return [i for i in positions if (row := made.get(benchmark.key(i))) is None or not is_definite(row)]


def collect(
    model: CandidateSettings, benchmark: Benchmark, settings: GenerationSettings, output: Path
) -> list[Instruction] | None:
    """The model's rows in the benchmark's order, written as one file too; None while some are not made yet.

    Raises ValueError for a folder of texts of other settings."""
    if model.origin == "instructions":
        return given(model, benchmark)
    _check_identity(identity_path(output, model.name, benchmark.name), _identity(model, settings))
    made = MadeTexts(output, model.name, benchmark.name).read()
    rows = [made[key] for i in range(len(benchmark)) if (key := benchmark.key(i)) in made]
    if len(rows) < len(benchmark):
        return None
    write_records(instructions_path(output, model.name, benchmark.stem), rows)
    return rows


def generation_identity(settings: GenerationSettings) -> dict[str, Any]:
    """What texts depend on, beside the model and the pair."""
    return {
        "prompt": Prompt.load(settings.prompt).fingerprint,
        "max_tokens": settings.max_tokens,
        "temperature": settings.temperature,
        "seed": settings.seed,
        "min_pixels": settings.min_pixels,
        "max_pixels": settings.max_pixels,
    }


def _identity(model: CandidateSettings, settings: GenerationSettings) -> dict[str, Any]:
    """What all texts of a folder share; the pair's own part is `Benchmark.key`."""
    shared = generation_identity(settings)
    if model.origin == "endpoint":
        endpoint = Endpoint.of(model.endpoint, settings)
        return shared | {"model": endpoint.model, "extra": endpoint.extra, "server": endpoint.identity}
    return shared | folder_digests(check_folder(model.folder or model.vllm)) | {"engine": model.origin}


def _check_identity(path: Path, expected: dict[str, Any]) -> None:
    if path.is_file():
        found = read_json_object(path)
        different = [name for name in expected if found.get(name) != expected[name]]
        if different:
            raise ValueError(
                f"{path.parent} holds instructions made with other settings ({', '.join(different)} differ): choose "
                "another output, or move that folder away"
            )
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(expected, indent=2) + "\n")
