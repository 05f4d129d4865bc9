"""SFT steps of 2B on pairs of JPEG pictures from shards, and whether they wait for the loader that reads them."""

import statistics
import tempfile
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import torch
from benches.loader import packed_reader, write_pairs
from benches.ways import scratch_folder

from editcaption_mega import platform
from editcaption_mega.data import SampleOrder
from editcaption_mega.data.batching.dataset import PairDataset, open_pairs
from editcaption_mega.data.batching.loader import StepStream
from editcaption_mega.model import Architecture
from editcaption_mega.objectives import SFTObjective
from editcaption_mega.settings import JobSettings
from editcaption_mega.training.inputs import on_device, reading_ahead
from editcaption_mega.training.loop import train_step

from .figures import Figure, Figures, Machine
from .models import model_with_weights, train_state_of
from .steps import job_of

PAIRS = 16  # in the shards; a step takes some of them anew each time
WARM_UP = 2  # steps that fill what is read ahead, and choose kernels


def run(machine: Machine) -> Figures:
    settings, architecture, _ = job_of("SFT", machine)
    steps = machine.size(8, 2)
    with scratch_folder() as root, tempfile.TemporaryDirectory() as name:
        shards = write_pairs(Path(name) / "pairs", PAIRS)
        limits = {"min_pixels": settings.data.min_pixels, "max_pixels": settings.data.max_pixels}
        dataset = open_pairs([str(shards)], root / "model", **limits)
        # Rows of more text than the model's own tokenizer makes of the same.
        stream = stream_of(dataset, settings, architecture)
        platform.initialize(platform.Layout(), seed=1)
        try:
            alone = _alone(stream, settings, steps)
            waits, seconds = _trained(stream, settings, architecture, steps)
        finally:
            platform.destroy()
    pairs = settings.training.global_batch_size
    how = reading_ahead(settings.data)
    readers = f"{how['workers']} {'processes' if how['processes'] else 'threads'}, JPEG of 1024 px"
    yield Figure("loader alone", pairs / alone, "pairs/s", readers)
    yield Figure("SFT of 2B, read from shards", pairs / statistics.median(seconds), "pairs/s")
    note = f"median of {len(waits)} steps, {1e3 * statistics.median(waits):.1f} ms"
    yield Figure("SFT of 2B: waiting for the loader", sum(waits) / sum(seconds), "of a step", note)


def stream_of(dataset: PairDataset, settings: JobSettings, architecture: Architecture) -> StepStream[PairDataset]:
    """Steps of the job over all pairs, again and again."""
    reader = packed_reader(dataset, settings.data.sequence_length, architecture.vision.num_grid_per_side)
    return StepStream(reader, SampleOrder(len(dataset), 1), settings.training.global_batch_size)


def _alone(stream: StepStream[PairDataset], settings: JobSettings, steps: int) -> float:
    """Seconds of a step that is read, brought to the device and left."""
    last = WARM_UP + steps
    with closing(on_device(stream.steps(0, last, **reading_ahead(settings.data)))) as arriving:
        for step in arriving:
            if step.number == WARM_UP - 1:
                began = time.perf_counter()
    return (time.perf_counter() - began) / steps


def _trained(
    stream: StepStream[PairDataset], settings: JobSettings, architecture: Architecture, steps: int
) -> tuple[list[float], list[float]]:
    """What each step waits for its inputs, and the seconds of the whole step."""
    # The pairs' tokenizer has marks of its own.
    encoder = stream.reader.dataset.encoder
    architecture = replace(architecture, image_token_id=encoder.image_token_id)
    state = train_state_of(model_with_weights(architecture, settings), architecture, settings)
    waits, seconds = [], []
    with closing(on_device(stream.steps(0, WARM_UP + steps, **reading_ahead(settings.data)))) as arriving:
        began = time.perf_counter()
        for step in arriving:
            arrived = time.perf_counter()
            train_step(state, SFTObjective(), step)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            ended = time.perf_counter()
            if step.number >= WARM_UP:
                waits.append(arrived - began)
                seconds.append(ended - began)
            began = ended
    return waits, seconds
