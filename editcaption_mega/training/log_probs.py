"""Log-probabilities of every answer in a set of shards, under any layout: the forward half of a training step."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch import Tensor

from editcaption_mega import job_outcome, phases, platform
from editcaption_mega.conversion import WeightSource, load_weights
from editcaption_mega.data.batching.batch import PackedBatch
from editcaption_mega.data.batching.dataset import PairDataset
from editcaption_mega.data.batching.loader import Round, SequenceReader, read_ahead
from editcaption_mega.data.batching.scoring import PairTexts, ScoringDataset, View
from editcaption_mega.files import PARTIAL, parse_json, rename_whole
from editcaption_mega.model import build_model
from editcaption_mega.model.pipeline_split import split_notes
from editcaption_mega.progress import Progress, no_progress
from editcaption_mega.settings import JobSettings, SettingsError

from .inputs import ReadingAhead, on_device, reading_ahead
from .pipeline import run_pipeline
from .session import stop_if_asked
from .setup import layout_of, measure_samples, open_architecture, open_dataset, open_reader

ANSWERS = ("chosen", "rejected")
BATCH = 64  # pairs between two writes are a multiple of this
# Packed sequences of a data-parallel rank between two writes: fewer leave ranks without work, and pipelines half empty.
_SEQUENCES, _SEQUENCES_OF_PIPELINE = 4, 16


def log_probs_of_shards(
    settings: JobSettings,
    output: Path,
    *,
    with_tokens: bool,
    view: View = "given",
    texts: PairTexts | None = None,
    progress: Progress = no_progress,
) -> None:
    """Write one JSON object per sample, in the order of the shards, after a first line with the fingerprint.

    view: the pictures under which the answers are scored. texts: scored in place of the shards' own answers; a line
    then has the numbers of each text under `answers`.
    settings.model.checkpoint is a Megatron checkpoint, a run folder, or a Hugging Face folder. Collective; rank 0
    writes. The file appears when it is complete. Raises ValueError before any work for what has no log-probs."""
    if output.exists():
        raise SettingsError(f"{output} exists already: choose another file, nothing was written")
    source = WeightSource.of(settings.model.checkpoint)
    settings = dataclasses.replace(settings, model=dataclasses.replace(settings.model, folder=str(source.folder)))
    architecture = open_architecture(settings)
    dataset = ScoringDataset.of(open_dataset(settings, "either"), view, texts)
    for note in [*dataset.notes, *split_notes(architecture.num_layers, settings.parallel)]:
        platform.print_rank_0(note)
    platform.initialize(layout_of(settings.parallel), settings.training.seed)
    failed = True
    try:
        lengths = measure_samples(dataset, settings.data.sequence_length)
        chunks = build_model(architecture, settings.model, settings.parallel, settings.training.precision)
        load_weights(chunks, architecture, source.folder, source.checkpoint)
        reader = open_reader(settings, dataset, lengths, architecture)
        fingerprint = fingerprint_of(source, dataset, settings.training.precision)
        reading = reading_ahead(settings.data)
        write_log_probs(chunks, reader, output, fingerprint, reading, with_tokens=with_tokens, progress=progress)
        failed = False
    finally:
        platform.destroy(after_failure=failed)


def write_log_probs(
    chunks: list[torch.nn.Module],
    reader: SequenceReader[PairDataset],
    output: Path,
    fingerprint: dict[str, str],
    reading: ReadingAhead,
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
    size = batch_size(reader)
    done = platform.from_rank_zero(lambda: lines_to_keep(temporary, first_line, dataset, with_tokens, size))
    if done:
        platform.print_rank_0(f"{temporary} has {done:,} of {len(dataset):,} samples already: going on from there")
    with ExitStack() as stack:
        out = stack.enter_context(open(temporary, "a", encoding="utf-8")) if platform.is_rank_zero() else None
        starts = range(done, len(dataset), size)
        batches = [range(start, min(start + size, len(dataset))) for start in starts]
        read = read_ahead(reader, (_filled(samples, reader) for samples in batches), **reading)
        rounds = stack.enter_context(closing(platform.each_together(on_device(read))))
        for samples in progress(batches, len(batches), "batches") if platform.is_rank_zero() else batches:
            phases.enter(phases.SCORING)
            stop_if_asked(0, f"after {samples.start:,} of {len(dataset):,} samples of {output.name}")
            values = _log_probs(chunks, reader, next(rounds))
            with platform.together():
                if out is not None and values is not None:  # rank 0 has both
                    lines = (_line(dataset, i, values[k], with_tokens) for k, i in enumerate(samples))
                    out.write("".join(json.dumps(line) + "\n" for line in lines))
                    out.flush()
                    job_outcome.note_progress(**{output.name: samples.stop})
        with platform.together():
            if out is not None:
                os.fsync(out.fileno())
                rename_whole(temporary, output)


def batch_size(reader: SequenceReader[PairDataset]) -> int:
    """Pairs between two writes: at least `BATCH`, and enough to give every rank work."""
    share, lengths = reader.packer.share, reader.lengths.num_tokens
    sequences = _SEQUENCES_OF_PIPELINE if parallel_state.get_pipeline_model_parallel_world_size() > 1 else _SEQUENCES
    tokens = sequences * share.data_parallel_size * reader.packer.sequence_length
    return BATCH * -(-tokens // (BATCH * max(1, int(lengths.mean()))))


def _filled(samples: Sequence[int], reader: SequenceReader[PairDataset]) -> list[int]:
    """Too few samples for every rank: the last one is computed again and dropped."""
    share = reader.packer.share
    return [*samples, *[samples[-1]] * (share.data_parallel_size * share.sequence_multiple - len(samples))]


def lines_to_keep(path: Path, first_line: str, dataset: PairDataset, with_tokens: bool, size: int = BATCH) -> int:
    """Make `path` a file to append to -> the samples that it has. Only whole batches are kept: then the rest is
    computed in the same micro-batches as without a pause, and its numbers are the same to the last bit."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [first_line]
    if path.is_file():
        with open(path, encoding="utf-8", errors="replace") as file:
            rest = iter(file) if next(file, "") == first_line else iter(())
            for i, line in zip(range(len(dataset)), rest, strict=False):
                if not line.endswith("\n") or not _is_line_of(line, dataset.id(i), with_tokens):
                    break
                lines.append(line)
    complete = len(lines) - 1
    if complete != len(dataset):
        complete -= complete % size
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
        isinstance(values, dict) and values.get("id") == name and ("input_ids" in _first_answer(values)) == with_tokens
    )


def _first_answer(line: dict[str, Any]) -> dict[str, Any]:
    """The numbers of the first answer of a line, whatever form it has."""
    part = line["answers"][0] if line.get("answers") else line.get(ANSWERS[0], line)
    return part if isinstance(part, dict) else {}


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
    chunks: list[torch.nn.Module], reader: SequenceReader[PairDataset], batch: Round
) -> dict[int, list[list[float]]] | None:
    """Log-probs of the tokens of each answer of the batch's samples, by their places, on rank 0 (None elsewhere).
    Collective."""
    log_probs = response_log_probs(chunks, batch.micro_batches, batch.plan.length)
    by_position: dict[int, list[list[float]]] = {}
    if parallel_state.get_tensor_model_parallel_rank() == 0:
        # None before the last stage.
        for sequence, row, tensor in zip(batch.plan.sequences, batch.micro_batches, log_probs, strict=False):
            values = tensor.tolist()
            answers = (values[first:last] for first, last in pairwise(row.response_bounds))
            for k in sequence:
                by_position[k] = [next(answers) for _ in range(reader.lengths.num_answers(batch.samples[k]))]
    gathered: list[Any] | None = [None] * platform.world_size() if platform.is_rank_zero() else None
    dist.gather_object(by_position, gathered, dst=0)
    return None if gathered is None else {k: values for part in gathered for k, values in part.items()}


def _line(dataset: PairDataset, i: int, token_log_probs: list[list[float]], with_tokens: bool) -> dict[str, Any]:
    """The object of one sample: the numbers of its instruction, of its chosen and rejected answers, or of the texts
    that are scored in their place."""
    parts: list[dict[str, Any]] = [{"log_prob": sum(values), "token_log_probs": values} for values in token_log_probs]
    if with_tokens:
        sample = dataset.sample(i)
        for part, answer in zip(parts, sample.answers, strict=True):
            part |= {"input_ids": [*sample.prompt_ids, *answer], "response_start": len(sample.prompt_ids)}
    if isinstance(dataset, ScoringDataset) and dataset.texts is not None:
        texts = dataset.texts.texts(i)
        return {"id": dataset.id(i), "answers": [{"text": t} | part for t, part in zip(texts, parts, strict=True)]}
    return {"id": dataset.id(i), **(parts[0] if len(parts) == 1 else dict(zip(ANSWERS, parts, strict=True)))}


def fingerprint_of(source: WeightSource, dataset: PairDataset, precision: str) -> dict[str, str]:
    """What the numbers depend on: the weights, the data with its tokens and pictures, and the precision. Collective."""
    return {"weights": platform.from_rank_zero(source.digest), **data_parts(dataset), "precision": precision}


def data_parts(dataset: PairDataset) -> dict[str, str]:
    """The data's parts under the names that files of log-probs have: the template is a part of the tokenizer there."""
    parts = dict(dataset.fingerprints)
    template = parts.pop("chat_template")
    return parts | {"tokenizer": hashlib.sha256(f"{parts['tokenizer']} {template}".encode()).hexdigest()}
