"""Log-probabilities of every answer in a set of shards, under any layout: the forward half of a training step."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
import torch.distributed as dist
from megatron.core import parallel_state

from editcaption_mega import platform
from editcaption_mega.conversion import find_checkpoint, load_weights
from editcaption_mega.data.packing import EncodedSample, plan_rows
from editcaption_mega.data.stream import PairDataset, StepStream
from editcaption_mega.model import Architecture, build_model
from editcaption_mega.model.build import check_layout
from editcaption_mega.model.layers import check_backend
from editcaption_mega.settings import JobSettings

from .job import check_samples, layout_of, open_dataset, row_settings
from .loop import run_pipeline

ANSWERS = ("chosen", "rejected")
BATCH = 64  # pairs between two writes


def score(
    settings: JobSettings,
    output: Path,
    *,
    with_tokens: bool,
    progress: Callable[..., Iterable] = lambda items, *_: items,
) -> None:
    """Write one JSON object per sample, in the order of the shards, after a first line with the fingerprint.

    settings.model.checkpoint is a Megatron checkpoint, a run folder, or a Hugging Face folder. Collective; rank 0
    writes. The file appears when it is complete. Raises ValueError before any work for what cannot be scored."""
    if output.exists():
        raise ValueError(f"{output} exists already: choose another file, nothing was written")
    source = Path(settings.model.checkpoint)
    is_folder = (source / "config.json").is_file()
    checkpoint = None if is_folder else find_checkpoint(source)
    settings.model.folder = str(source if is_folder else checkpoint / "hf")
    architecture = Architecture.from_folder(settings.model.folder)
    check_backend(settings.model.backend)
    check_layout(architecture, settings.parallel)
    settings.parallel.data_parallel_size(platform.world_size())
    dataset = open_dataset(settings, architecture, "either")
    platform.initialize(layout_of(settings.parallel), settings.training.seed)
    check_samples(dataset, settings.data.sequence_length)
    chunks = build_model(architecture, settings.model, settings.parallel, settings.training.precision)
    load_weights(chunks, architecture, settings.model.folder, checkpoint)
    for chunk in chunks:
        chunk.eval()
    stream = StepStream(dataset, None, row_settings(settings), table_side=architecture.vision.position_grid)
    temporary = output.with_name(output.name + ".partial")
    out = None
    if platform.is_rank_zero():
        output.parent.mkdir(parents=True, exist_ok=True)
        out = open(temporary, "w", encoding="utf-8")  # noqa: SIM115 (closed below, before the rename)
        out.write(
            json.dumps({"fingerprint": _fingerprint(settings, dataset, source if is_folder else checkpoint)}) + "\n"
        )
    starts = range(0, len(dataset), BATCH)
    for start in progress(starts, len(starts), "batches") if platform.is_rank_zero() else starts:
        samples = [dataset.sample(i) for i in range(start, min(start + BATCH, len(dataset)))]
        values = _log_probs(chunks, stream, samples)
        if out is not None:
            for sample, token_log_probs in zip(samples, values, strict=True):
                out.write(json.dumps(_row(sample, token_log_probs, with_tokens)) + "\n")
    if out is not None:
        out.flush()
        os.fsync(out.fileno())
        out.close()
        temporary.rename(output)
    platform.barrier()
    platform.destroy()


def _log_probs(chunks: list, stream: StepStream, samples: list[EncodedSample]) -> list[list[list[float]]] | None:
    """Log-probs of the tokens of each answer of each sample, on rank 0 (None elsewhere). Collective."""
    settings = stream.rows
    multiple = settings.data_parallel_size * settings.row_multiple
    # Too few samples for every rank: the last one is scored again and dropped.
    filled = samples + [samples[-1]] * max(0, multiple - len(samples))
    # Numbered, because ids may repeat over several folders of shards.
    numbered = [dataclasses.replace(sample, id=str(i)) for i, sample in enumerate(filled)]
    lengths = [sample.num_tokens for sample in numbered]
    plan = plan_rows(lengths, settings.sequence_length, multiple)
    longest = max(sum(lengths[i] for i in row) for row in plan)
    length = -(-longest // settings.length_multiple) * settings.length_multiple
    mine = plan[settings.data_parallel_rank :: settings.data_parallel_size]
    rows = [stream.collate([numbered[i] for i in row], length).to(platform.device()) for row in mine]
    found: dict[int, list[list[float]]] = {}

    def forward(data: Iterator, model):
        batch = next(data)

        def collect(batch, log_probs):
            values = log_probs.tolist()
            answers = (values[first:last] for first, last in pairwise(batch.response_bounds))
            for name in batch.sample_ids:
                found[int(name)] = [next(answers) for _ in filled[int(name)].answers]
            return log_probs.sum(), {}

        return model(batch), partial(collect, batch)

    with torch.no_grad():
        run_pipeline(forward, chunks, rows, length, forward_only=True)
    if parallel_state.get_tensor_model_parallel_rank() != 0:
        found = {}
    gathered: list | None = [None] * platform.world_size() if platform.is_rank_zero() else None
    dist.gather_object(found, gathered, dst=0)
    if gathered is None:
        return None
    merged = {number: values for part in gathered for number, values in part.items()}
    return [merged[i] for i in range(len(samples))]


def _row(sample: EncodedSample, token_log_probs: list[list[float]], with_tokens: bool) -> dict:
    """The object of one sample: the numbers of its instruction, or those of its chosen and rejected answers."""
    parts = []
    for answer, values in zip(sample.answers, token_log_probs, strict=True):
        part = {"log_prob": sum(values), "token_log_probs": values}
        if with_tokens:
            part |= {"input_ids": [*sample.prompt_ids, *answer], "response_start": len(sample.prompt_ids)}
        parts.append(part)
    return {"id": sample.id, **(parts[0] if len(parts) == 1 else dict(zip(ANSWERS, parts, strict=True)))}


def _fingerprint(settings: JobSettings, dataset: PairDataset, weights: Path) -> dict:
    """What the numbers depend on: the weights, the data with its tokens and pictures, and the precision."""
    names = sorted(path for path in weights.iterdir() if path.suffix == ".safetensors" or path.name == "tensors.json")
    digest = hashlib.sha256()
    for path in names:
        digest.update(f"{path.name}:{path.stat().st_size}\n".encode())
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return {
        "weights": digest.hexdigest()[:32],
        "data": dataset.fingerprint,
        "precision": settings.training.precision,
    }
