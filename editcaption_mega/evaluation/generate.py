"""Instructions of every model for every benchmark, whatever the models run on, from one prompt.

    OUTPUT/instructions/MODEL/BENCHMARK.jsonl   one Instruction per pair in the benchmark's order, when all are there
    OUTPUT/instructions/MODEL/BENCHMARK.json    what they were made from; another run with other settings is refused

Work that is killed goes on where it was. It may be divided: part k of n writes BENCHMARK.part-k-of-n.jsonl, and the
last part to end puts them together."""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from editcaption_mega.data.chat import Prompt
from editcaption_mega.data.stream import PairDataset, open_pairs
from editcaption_mega.inference.answer import read_answer
from editcaption_mega.inference.client import Message, Picture, Request, complete
from editcaption_mega.inference.endpoint import Endpoint
from editcaption_mega.inference.folder import check_folder
from editcaption_mega.inference.pictures import PictureLimits
from editcaption_mega.inference.wire import data_url, messages_json
from editcaption_mega.records import Instruction
from editcaption_mega.settings import CandidateSettings, EndpointSettings, GenerationSettings

from .benchmarks import Benchmark
from .rows import read_rows, write_rows

Progress = Callable[..., Iterable]


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


def endpoint_of(settings: EndpointSettings, pictures: GenerationSettings) -> Endpoint:
    """pictures: whose pixel limits hold, so that an endpoint gets the pictures that models in process get."""
    names = [one.name for one in fields(Endpoint) if one.name not in ("min_pixels", "max_pixels")]
    values = {name: getattr(settings, name) for name in names}
    return Endpoint(**values, min_pixels=pictures.min_pixels, max_pixels=pictures.max_pixels)


def instructions_path(output: Path, model: str, benchmark: str) -> Path:
    return output / "instructions" / model / f"{benchmark}.jsonl"


def generate(
    model: CandidateSettings,
    benchmark: Benchmark,
    settings: GenerationSettings,
    output: Path,
    *,
    part: Part | None = None,
    progress: Progress,
) -> list[Instruction] | None:
    """The model's instructions for a benchmark; what is complete from an earlier run is read.

    Returns None while other parts are missing. Raises ValueError for files of other settings or other pairs."""
    part = part or Part()
    path = instructions_path(output, model.name, benchmark.name)
    if model.origin == "instructions":
        return _given(model, benchmark)
    _check_identity(path.with_suffix(".json"), _identity(model, benchmark, settings))
    if not path.is_file():
        mine = path if part.count == 1 else _part_path(path, part.number, part.count)
        if not mine.is_file():
            rows = _WRITE[model.origin](model, benchmark, settings, part, output, progress)
            position = {benchmark.ids[i]: i for i in part.positions(benchmark)}
            rows = sorted(rows, key=lambda row: position[row.id])
            write_rows(mine, rows)
        if part.count > 1 and not _put_together(path, benchmark, part.count):
            return None
    rows = read_rows(path, Instruction)
    benchmark.check_join((row.id for row in rows), str(path))
    return rows


def _given(model: CandidateSettings, benchmark: Benchmark) -> list[Instruction]:
    path = Path(model.instructions) / f"{benchmark.name}.jsonl"
    rows = read_rows(path, Instruction)
    benchmark.check_join((row.id for row in rows), str(path))
    by_id = {row.id: row.model_copy(update={"model": model.name, "benchmark": benchmark.name}) for row in rows}
    return [by_id[pair_id] for pair_id in benchmark.ids]


def _identity(model: CandidateSettings, benchmark: Benchmark, settings: GenerationSettings) -> dict:
    found = {
        "benchmark": benchmark.fingerprint,
        "prompt": Prompt.load(settings.prompt).fingerprint,
        "max_tokens": settings.max_tokens,
        "temperature": settings.temperature,
        "seed": settings.seed,
    }
    found |= {"min_pixels": settings.min_pixels, "max_pixels": settings.max_pixels}
    if model.origin == "endpoint":
        endpoint = endpoint_of(model.endpoint, settings)
        return found | {"model": endpoint.model, "extra": endpoint.extra, "server": endpoint.identity}
    from editcaption_mega.conversion import WeightSource

    folder = check_folder(model.folder or model.vllm)
    return found | {"weights": WeightSource(folder).digest(), "engine": model.origin}


def _check_identity(path: Path, expected: dict) -> None:
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        different = [name for name in expected if found.get(name) != expected[name]]
        if different:
            raise ValueError(
                f"{path.parent} holds instructions made with other settings ({', '.join(different)} differ): choose "
                "another output, or move that folder away"
            )
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.partial")
    temporary.write_text(json.dumps(expected, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def _part_path(path: Path, number: int, count: int) -> Path:
    return path.with_name(f"{path.stem}.part-{number:03d}-of-{count:03d}.jsonl")


def _put_together(path: Path, benchmark: Benchmark, count: int) -> bool:
    parts = [_part_path(path, number, count) for number in range(count)]
    if not all(part.is_file() for part in parts):
        return False
    by_id = {row.id: row for part in parts for row in read_rows(part, Instruction)}
    benchmark.check_join(by_id, f"the parts of {path}")
    write_rows(path, (by_id[pair_id] for pair_id in benchmark.ids))
    return True


# ---- where texts come from -------------------------------------------------------------------------------------------


class _Subset:
    """Some samples of a dataset, in the form that `write_instructions` takes."""

    def __init__(self, dataset: PairDataset, positions: list[int]):
        self.dataset, self.positions = dataset, positions

    def __len__(self) -> int:
        return len(self.positions)

    def prompt(self, i: int):
        return self.dataset.prompt(self.positions[i])


def _in_process(model, benchmark: Benchmark, settings, part: Part, output: Path, progress) -> Iterable[Instruction]:
    from editcaption_mega.inference import Generator
    from editcaption_mega.inference.instructions import write_instructions

    shards = [str(benchmark.shards)]
    dataset = open_pairs(
        shards, model.folder, min_pixels=settings.min_pixels, max_pixels=settings.max_pixels, prompt=settings.prompt
    )
    subset = _Subset(dataset, [benchmark.position(i) for i in part.positions(benchmark)])
    log = instructions_path(output, model.name, benchmark.name)
    log = log.with_name(f"{log.stem}.{part.number}-of-{part.count}.done")
    done = _whole_batches(log, settings.batch_size)
    if len(done) < len(subset):
        rows = write_instructions(
            Generator(model.folder), subset, max_new_tokens=settings.max_tokens, temperature=settings.temperature,
            seed=settings.seed, batch_size=settings.batch_size, first=len(done),
        )  # fmt: skip
        with open(log, "a", encoding="utf-8") as file:
            for row in progress(rows, len(subset) - len(done), f"{model.name}, {benchmark.name}"):
                file.write(json.dumps(row) + "\n")
                file.flush()
                done.append(row)
    made = [_instruction(model, benchmark, row["id"], row["instruction"], row["finished"], row) for row in done]
    log.unlink()
    return made


def _whole_batches(log: Path, batch_size: int) -> list[dict]:
    """What a killed run wrote, without the batch that it was in: so the texts do not depend on where it was killed."""
    rows: list[dict] = []
    if log.is_file():
        for line in log.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break  # the line that was being written
        rows = rows[: len(rows) - len(rows) % batch_size]
    temporary = log.with_name(log.name + ".partial")
    temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    os.replace(temporary, log)
    return rows


def _instruction(model, benchmark, pair_id: str, text: str, finished: bool, row: dict) -> Instruction:
    answer = read_answer(text, "stop" if finished else "length")
    who = {"benchmark": benchmark.name, "id": pair_id, "model": model.name}
    kept = {"tokens": row["tokens"], "finished": finished}
    if answer.text:
        return Instruction(**who, instruction=answer.text, provenance=kept)
    return Instruction(**who, reason=f"{answer.status}: {answer.reason}", provenance=kept)


def chat_messages(prompt: Prompt, source: bytes, target: bytes) -> tuple[Message, ...]:
    """The prompt as an endpoint takes it; the same text and order as in training."""
    user = Message(
        "user", (prompt.before_source, Picture(source), prompt.before_target, Picture(target), prompt.request)
    )
    return (Message("system", (prompt.system,)), user) if prompt.system else (user,)


def _at_endpoint(model, benchmark: Benchmark, settings, part: Part, output: Path, progress) -> Iterator[Instruction]:
    prompt = Prompt.load(settings.prompt)
    positions = part.positions(benchmark)

    def requests() -> Iterator[Request]:
        for i in positions:
            item = benchmark.item(i)
            yield Request(
                item.pair.id, chat_messages(prompt, item.source, item.target), max_tokens=settings.max_tokens,
                temperature=settings.temperature, seed=settings.seed,
            )  # fmt: skip

    cache = output / "cache" if part.count == 1 else output / f"cache/part-{part.number:03d}-of-{part.count:03d}"
    endpoint = endpoint_of(model.endpoint, settings)
    for reply in complete(endpoint, requests(), cache, progress=progress, total=len(positions)):
        tokens = {"served": reply.model, "tokens": reply.completion_tokens}
        who = {"benchmark": benchmark.name, "id": reply.id, "model": model.name}
        if reply.status in ("ok", "truncated"):
            kept = {**tokens, "finished": reply.status == "ok"}
            yield Instruction(**who, instruction=reply.text.strip(), provenance=kept)
        else:
            yield Instruction(**who, reason=f"{reply.status}: {reply.reason}", provenance=tokens)


def _in_vllm(model, benchmark: Benchmark, settings, part: Part, output: Path, progress) -> Iterator[Instruction]:
    try:
        from vllm import LLM, SamplingParams
    except ImportError:
        raise ValueError(
            f"model {model.name}: vllm={model.vllm} needs vLLM, which is not installed; install it, or use folder= "
            "(in process) or endpoint.url= (a served model)"
        ) from None
    prompt = Prompt.load(settings.prompt)
    engine = LLM(model=model.vllm, limit_mm_per_prompt={"image": 2}, seed=settings.seed, trust_remote_code=False)
    sampling = SamplingParams(temperature=settings.temperature, max_tokens=settings.max_tokens, seed=settings.seed)
    limits = PictureLimits(settings.min_pixels, settings.max_pixels)
    positions = part.positions(benchmark)
    batches = [positions[k : k + settings.batch_size] for k in range(0, len(positions), settings.batch_size)]
    for batch in progress(batches, len(batches), f"{model.name}, {benchmark.name} (batches)"):
        items = [benchmark.item(i) for i in batch]
        conversations = [
            messages_json(limits.fit(chat_messages(prompt, item.source, item.target)), data_url) for item in items
        ]
        for item, out in zip(items, engine.chat(conversations, sampling, use_tqdm=False), strict=True):
            answer = out.outputs[0]
            row = {"tokens": len(answer.token_ids)}
            yield _instruction(model, benchmark, item.pair.id, answer.text, answer.finish_reason == "stop", row)


_WRITE = {"folder": _in_process, "endpoint": _at_endpoint, "vllm": _in_vllm}
