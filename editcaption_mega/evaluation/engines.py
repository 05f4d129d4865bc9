"""Where texts come from: a model in process, an endpoint, vLLM offline, files written elsewhere; one prompt for all.

Each engine hands what it gets to `inference.answer`, so a row holds an answer or the reason why there is none."""

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import batched
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editcaption_mega.data.text.prompt import END_OF_TURN, Prompt
from editcaption_mega.inference.endpoint.address import Endpoint
from editcaption_mega.inference.endpoint.answer import RAISE, Answer, as_instruction, read_answer
from editcaption_mega.inference.endpoint.client import Picture, Request, complete
from editcaption_mega.inference.endpoint.openai_protocol import data_url, messages_json
from editcaption_mega.inference.endpoint.pair_messages import chat_messages, reply_answer
from editcaption_mega.inference.endpoint.picture_limits import PictureLimits
from editcaption_mega.inference.serving.vllm_adapters import VllmAdapter
from editcaption_mega.progress import Progress
from editcaption_mega.records import Instruction, RecordError
from editcaption_mega.settings import CandidateSettings, GenerationSettings

from .benchmarks import Benchmark
from .record_files import read_lines

if TYPE_CHECKING:
    pass

_log = logging.getLogger(__name__)

NOT_GIVEN = "the file has none: "  # how reasons of given rows begin
GIVEN_MEND = "put texts into the file of its instructions"


def row_of(model: str, benchmark: str, pair_id: str, answer: Answer, **about: Any) -> Instruction:
    """An answer as a row; `about` goes into its provenance."""
    answer = as_instruction(answer)
    who = {"model": model, "benchmark": benchmark, "id": pair_id}
    if answer.thought:
        about["thought"] = answer.thought
    if answer.text:
        about |= {"ending": "none given"} if answer.finished is None else {"finished": answer.finished}
        return Instruction(**who, instruction=answer.text, provenance=about)
    about["status"] = answer.status
    # One folder holds texts of one max_tokens.
    where = ", in a new output" if answer.reason.endswith(RAISE) else ""
    return Instruction(**who, reason=f"{answer.status}: {answer.reason}{where}", provenance=about)


def given(model: CandidateSettings, benchmark: Benchmark) -> list[Instruction]:
    """Texts written elsewhere: rows of {"id", "instruction"} (or "reason"), and what else an Instruction holds.

    Rows of another run may name their model otherwise than the settings do: that is told, and kept as
    `provenance.written_by`. Raises ValueError for files that are not there, rows that are none, of several models or of
    another benchmark, and ids that do not fit."""
    path = Path(model.instructions) / f"{benchmark.name}.jsonl"
    by_id: dict[str, Instruction] = {}
    ids: list[str] = []
    writers: set[str] = set()
    for where, row in read_lines(path, "instruction ({id, instruction})"):
        writer = model.name
        if isinstance(row, dict):
            writer = str(row.get("model", writer))
            writers.add(writer)
            row = row | {"model": model.name} | _of_benchmark(row, benchmark.name, where) | _written(row)
        found = Instruction.from_json(row, where=where)
        if writer != model.name:
            found = found.model_copy(update={"provenance": {**found.provenance, "written_by": writer}})
        ids.append(found.id)
        by_id[found.id] = found
    left_out = benchmark.left_out
    benchmark.check_join((pair_id for pair_id in ids if pair_id not in left_out), str(path))
    if len(writers) > 1:
        raise ValueError(
            f"{path} holds texts of several models ({', '.join(sorted(writers)[:3])}): give each model its own file"
        )
    if writers - {model.name}:
        _log.warning("%s: texts of model %s, named %s by the settings", path, *writers, model.name)
    return [by_id[pair_id] for pair_id in benchmark.ids]


def _of_benchmark(row: dict[str, Any], benchmark: str, where: str) -> dict[str, str]:
    """The row's benchmark. Raises RecordError for one that says it is another's."""
    if row.get("benchmark", benchmark) != benchmark:
        raise RecordError(
            f"{where}: field 'benchmark' is {row['benchmark']!r:.80}, expected {benchmark!r} or none: these are texts "
            "of another benchmark; take its file, or rename it in the settings"
        )
    return {"benchmark": benchmark}


def _written(row: dict[str, Any]) -> dict[str, Any]:
    """The fields of a given row that say whether there is an instruction, as an engine's answer would."""
    text, about = row.get("instruction"), row.get("provenance")
    if row.get("reason") is not None or not isinstance(text, str | None):
        return {}
    status = about.get("status") if isinstance(about, dict) else None
    answer = as_instruction(read_answer(text, "stop"))
    if answer.text and status in ("refused", "malformed", "failed"):
        answer = replace(answer, text="", reason=f"its provenance.status is {status}")
    return {"instruction": answer.text or None} | ({} if answer.text else {"reason": NOT_GIVEN + answer.reason})


def in_process(
    model: CandidateSettings, benchmark: Benchmark, settings: GenerationSettings, positions: Sequence[int],
    missing: Sequence[int], cache: Path, progress: Progress,
) -> Iterator[Instruction]:  # fmt: skip
    """From the model's folder, in this process."""
    from editcaption_mega.data.batching.dataset import open_pairs  # PyTorch is waited for where it is used
    from editcaption_mega.inference import Generator
    from editcaption_mega.inference.local.instructions import record_answer, write_missing

    dataset = open_pairs(
        [str(benchmark.shards)], model.folder, min_pixels=settings.min_pixels, max_pixels=settings.max_pixels,
        prompt=settings.prompt,
    )  # fmt: skip
    for note in dataset.notes:
        print(note, flush=True)
    rows = (
        row_of(model.name, benchmark.name, record["id"], record_answer(record), tokens=record["tokens"])
        for record in write_missing(
            Generator(model.folder), dataset, [benchmark.position(i) for i in positions],
            {benchmark.position(i) for i in missing}, max_new_tokens=settings.max_tokens,
            temperature=settings.temperature, seed=settings.seed, batch_size=settings.batch_size,
        )
    )  # fmt: skip
    yield from progress(rows, len(missing), f"{model.name}, {benchmark.name}")


def at_endpoint(
    model: CandidateSettings, benchmark: Benchmark, settings: GenerationSettings, positions: Sequence[int],
    missing: Sequence[int], cache: Path, progress: Progress,
) -> Iterator[Instruction]:  # fmt: skip
    prompt = Prompt.load(settings.prompt)

    def requests() -> Iterator[Request[str]]:
        for i in missing:
            item = benchmark.item(i)
            messages = chat_messages(prompt, Picture(item.source), Picture(item.target))
            yield Request(
                item.pair.id, messages, max_tokens=settings.max_tokens, temperature=settings.temperature,
                seed=settings.seed,
            )  # fmt: skip

    endpoint = Endpoint.of(model.endpoint, settings)
    for reply in complete(endpoint, requests(), cache, progress=progress, total=len(missing)):
        answer = reply_answer(reply)
        yield row_of(model.name, benchmark.name, reply.id, answer, served=reply.model, tokens=reply.completion_tokens)


def in_vllm(
    model: CandidateSettings, benchmark: Benchmark, settings: GenerationSettings, positions: Sequence[int],
    missing: Sequence[int], cache: Path, progress: Progress,
) -> Iterator[Instruction]:  # fmt: skip
    try:
        from vllm import LLM, SamplingParams
    except ImportError:
        raise ValueError(
            f"model {model.name}: vllm={model.vllm} needs vLLM, which is not installed; install it, or use folder= "
            "(in process) or endpoint.url= (a served model)"
        ) from None
    _take_own_gpu()
    prompt = Prompt.load(settings.prompt)
    adapter = VllmAdapter.of(model.vllm)
    weights, options, asked_of = model.vllm, {}, {}
    if adapter is not None:
        from vllm.lora.request import LoRARequest

        weights, options = str(adapter.base), {"enable_lora": True, "max_lora_rank": adapter.max_rank}
        asked_of = {"lora_request": LoRARequest(model.name, 1, str(adapter.folder))}
    engine = LLM(
        model=weights, limit_mm_per_prompt={"image": 2}, seed=settings.seed, trust_remote_code=False, **options
    )
    end = engine.get_tokenizer().get_vocab().get(END_OF_TURN)  # of training, whatever the folder's files say
    sampling = SamplingParams(
        temperature=settings.temperature, max_tokens=settings.max_tokens, seed=settings.seed,
        stop_token_ids=[] if end is None else [end],
    )  # fmt: skip
    limits = PictureLimits(settings.min_pixels, settings.max_pixels)
    batches = list(batched(missing, settings.batch_size))
    for batch in progress(batches, len(batches), f"{model.name}, {benchmark.name} (batches)"):
        asked: dict[str, list[dict[str, Any]]] = {}
        for i in batch:
            item = benchmark.item(i)
            try:
                messages = limits.fit(chat_messages(prompt, Picture(item.source), Picture(item.target)))
            except ValueError as error:  # a picture that cannot be used; the others go on
                yield row_of(model.name, benchmark.name, item.pair.id, Answer("failed", reason=str(error)), tokens=0)
                continue
            asked[item.pair.id] = messages_json(messages, data_url)
        outputs = engine.chat(list(asked.values()), sampling, use_tqdm=False, **asked_of) if asked else []
        for pair_id, output in zip(asked, outputs, strict=True):
            made = output.outputs[0] if output.outputs else None
            answer = read_answer(
                getattr(made, "text", None), getattr(made, "finish_reason", None), prompt_end=output.prompt or ""
            )
            tokens = len(made.token_ids) if made is not None else 0
            yield row_of(model.name, benchmark.name, pair_id, answer, tokens=tokens)


def _take_own_gpu() -> None:
    """vLLM's processes begin at the first visible device: under torchrun that is made this rank's own."""
    rank = os.environ.get("LOCAL_RANK")
    if rank is not None:
        visible = [one for one in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if one]
        if visible and int(rank) >= len(visible):
            raise ValueError(f"rank {rank} has no GPU of its own: {len(visible)} are visible; start as many ranks")
        os.environ["CUDA_VISIBLE_DEVICES"] = visible[int(rank)] if visible else rank
