"""Log-probabilities of every answer in a set of shards, under any layout: the forward half of a training step."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch import Tensor

from editcaption_mega import platform
from editcaption_mega.conversion import WeightSource, load_weights
from editcaption_mega.data.batching.batch import PackedBatch
from editcaption_mega.data.batching.dataset import PairDataset
from editcaption_mega.data.batching.loader import SequenceReader
from editcaption_mega.data.batching.sample import EncodedSample
from editcaption_mega.files import PARTIAL, parse_json, rename_whole
from editcaption_mega.model import build_model
from editcaption_mega.model.pipeline_split import split_notes
from editcaption_mega.progress import Progress, no_progress
from editcaption_mega.settings import JobSettings, SettingsError

from .pipeline import run_pipeline
from .session import stop_if_asked
from .setup import layout_of, measure_samples, open_architecture, open_dataset, open_reader

ANSWERS = ("chosen", "rejected")
BATCH = 64  # pairs between two writes


def log_probs_of_shards(
    settings: JobSettings, output: Path, *, with_tokens: bool, progress: Progress = no_progress
) -> None:
    """Write one JSON object per sample, in the order of the shards, after a first line with the fingerprint.

    settings.model.checkpoint is a Megatron checkpoint, a run folder, or a Hugging Face folder. Collective; rank 0
    writes. The file appears when it is complete. Raises ValueError before any work for what has no log-probs."""
    if output.exists():
        raise SettingsError(f"{output} exists already: choose another file, nothing was written")
    source = WeightSource.of(settings.model.checkpoint)
    settings = dataclasses.replace(settings, model=dataclasses.replace(settings.model, folder=str(source.folder)))
    architecture = open_architecture(settings)
    dataset = open_dataset(settings, "either")
    for note in [*dataset.notes, *split_notes(architecture.num_layers, settings.parallel)]:
        platform.print_rank_0(note)
    platform.initialize(layout_of(settings.parallel), settings.training.seed)
    try:
        lengths = measure_samples(dataset, settings.data.sequence_length)
        chunks = build_model(architecture, settings.model, settings.parallel, settings.training.precision)
        load_weights(chunks, architecture, source.folder, source.checkpoint)
        reader = open_reader(settings, dataset, lengths, architecture)
        fingerprint = fingerprint_of(source, dataset, settings.training.precision)
        write_log_probs(chunks, reader, output, fingerprint, with_tokens=with_tokens, progress=progress)
    finally:
        platform.destroy()


def write_log_probs(
    chunks: list[torch.nn.Module],
    reader: SequenceReader[PairDataset],
    output: Path,
    fingerprint: dict[str, str],
    *,
    with_tokens: bool = False,
    progress: Progress = no_progress,
) -> None:
    """The file of log-probs of every sample of the reader's data, under the weights in `chunks`. Collective.

    What a killed or stopped process wrote is kept in OUTPUT.partial, and the same call goes on from there. Raises
    Stopped between two batches after a signal that `signals` remembers."""
    dataset = reader.dataset
    # The last batch is of any size, so its samples must be packed to feed all ranks.
    reader = dataclasses.replace(reader, packer=dataclasses.replace(reader.packer, packing=True))
    for chunk in chunks:
        chunk.eval()
    temporary = output.with_name(output.name + PARTIAL)
    first_line = json.dumps({"fingerprint": fingerprint}) + "\n"
    done = platform.from_rank_zero(lambda: lines_to_keep(temporary, first_line, dataset, with_tokens))
    if done:
        platform.print_rank_0(f"{temporary} has {done:,} of {len(dataset):,} samples already: going on from there")
    with ExitStack() as stack:
        out = stack.enter_context(open(temporary, "a", encoding="utf-8")) if platform.is_rank_zero() else None
        starts = range(done, len(dataset), BATCH)
        for start in progress(starts, len(starts), "batches") if platform.is_rank_zero() else starts:
            stop_if_asked(0, f"after {start:,} of {len(dataset):,} samples of {output.name}")
            samples = range(start, min(start + BATCH, len(dataset)))
            values = _log_probs(chunks, reader, samples)
            with platform.together():
                if out is not None and values is not None:  # rank 0 has both
                    pairs = zip(map(dataset.sample, samples), values, strict=True)
                    out.write("".join(json.dumps(_line(*pair, with_tokens)) + "\n" for pair in pairs))
                    out.flush()
        with platform.together():
            if out is not None:
                os.fsync(out.fileno())
                rename_whole(temporary, output)


def lines_to_keep(path: Path, first_line: str, dataset: PairDataset, with_tokens: bool) -> int:
    """Make `path` a file to append to -> the samples that it has. Only whole batches are kept: then the rest is
    computed in the same micro-batches as without a pause, and its numbers are the same to the last bit."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [first_line]
    if path.is_file():
        with open(path, encoding="utf-8", errors="replace") as file:
            rest = iter(file) if next(file, "") == first_line else iter(())
            for i, line in zip(range(len(dataset)), rest, strict=False):
                if not line.endswith("\n") or not _is_line_of(line, dataset.shards.meta(i).id, with_tokens):
                    break
                lines.append(line)
    complete = len(lines) - 1
    if complete != len(dataset):
        complete -= complete % BATCH
    with open(path, "r+" if path.is_file() else "w", encoding="utf-8", newline="") as file:
        file.writelines(lines[: 1 + complete])
        file.truncate()
    return complete


def _is_line_of(line: str, name: str, with_tokens: bool) -> bool:
    try:
        values = parse_json(line)
    except ValueError:
        return False
    return (
        isinstance(values, dict)
        and values.get("id") == name
        and ("input_ids" in values.get(ANSWERS[0], values)) == with_tokens
    )


def response_log_probs(chunks: list[torch.nn.Module], micro_batches: list[PackedBatch], length: int) -> list[Tensor]:
    """Log-probs of the response tokens of each micro-batch [T] fp32, without gradients; [] before the last stage.

    Collective, as a training step's forward pass is."""
    token_log_probs: list[Tensor] = []

    def forward(
        data: Iterator[PackedBatch], model: torch.nn.Module
    ) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, dict[str, Any]]]]:
        def collect(log_probs: Tensor) -> tuple[Tensor, dict[str, Any]]:
            token_log_probs.append(log_probs)
            return log_probs.sum(), {}

        return model(next(data)), collect

    with torch.no_grad():
        run_pipeline(forward, chunks, micro_batches, length, forward_only=True)
    return token_log_probs


def _log_probs(
    chunks: list[torch.nn.Module], reader: SequenceReader[PairDataset], samples: Sequence[int]
) -> list[list[list[float]]] | None:
    """Log-probs of the tokens of each answer of each sample, on rank 0 (None elsewhere). Collective."""
    share = reader.packer.share
    # Too few samples for every rank: the last one is computed again and dropped.
    repeats = share.data_parallel_size * share.sequence_multiple - len(samples)
    filled = [*samples, *[samples[-1]] * repeats]
    plan = reader.plan(filled)
    with platform.together():
        batches = [reader.read([filled[k] for k in sequence], plan.length) for sequence in plan.sequences]
    batches = [batch.to(platform.device()) for batch in batches]
    log_probs = response_log_probs(chunks, batches, plan.length)
    by_position: dict[int, list[list[float]]] = {}
    if parallel_state.get_tensor_model_parallel_rank() == 0:
        # None before the last stage.
        for sequence, batch, tensor in zip(plan.sequences, batches, log_probs, strict=False):
            values = tensor.tolist()
            answers = (values[first:last] for first, last in pairwise(batch.response_bounds))
            for k in sequence:
                by_position[k] = [next(answers) for _ in range(reader.lengths.num_answers(filled[k]))]
    gathered: list[Any] | None = [None] * platform.world_size() if platform.is_rank_zero() else None
    dist.gather_object(by_position, gathered, dst=0)
    if gathered is None:
        return None
    merged = {k: values for part in gathered for k, values in part.items()}
    return [merged[k] for k in range(len(samples))]


def _line(sample: EncodedSample, token_log_probs: list[list[float]], with_tokens: bool) -> dict[str, Any]:
    """The object of one sample: the numbers of its instruction, or those of its chosen and rejected answers."""
    parts = []
    for answer, values in zip(sample.answers, token_log_probs, strict=True):
        part = {"log_prob": sum(values), "token_log_probs": values}
        if with_tokens:
            part |= {"input_ids": [*sample.prompt_ids, *answer], "response_start": len(sample.prompt_ids)}
        parts.append(part)
    return {"id": sample.id, **(parts[0] if len(parts) == 1 else dict(zip(ANSWERS, parts, strict=True)))}


def fingerprint_of(source: WeightSource, dataset: PairDataset, precision: str) -> dict[str, str]:
    """What the numbers depend on: the weights, the data with its tokens and pictures, and the precision. Collective."""
    return {"weights": platform.from_rank_zero(source.digest), **data_parts(dataset), "precision": precision}


def data_parts(dataset: PairDataset) -> dict[str, str]:
    """The data's parts under the names that files of log-probs have: the template is a part of the tokenizer there."""
    parts = dict(dataset.fingerprints)
    template = parts.pop("chat_template")
    return parts | {"tokenizer": hashlib.sha256(f"{parts['tokenizer']} {template}".encode()).hexdigest()}
