"""What training and computing log-probs share before they begin: the sizes of the model, data, rows and ranks."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import batched
from pathlib import Path

import numpy as np
from megatron.core import parallel_state

from editcaption_mega import platform
from editcaption_mega.data.batching.dataset import Answers, PairDataset, SampleLengths, open_pairs
from editcaption_mega.data.batching.job_samples import JobSamples
from editcaption_mega.data.batching.loader import SequenceReader
from editcaption_mega.data.batching.packing import Packer, RankShare
from editcaption_mega.data.shards.reader import ShardReader
from editcaption_mega.data.start_tables import table
from editcaption_mega.model import Architecture
from editcaption_mega.model.attention import use_flash_attention
from editcaption_mega.model.flops import sample_flops
from editcaption_mega.model.layers import check_backend
from editcaption_mega.model.layout_check import check_layout
from editcaption_mega.model.recompute import check_recompute
from editcaption_mega.progress import Progress, no_progress
from editcaption_mega.settings import JobSettings, ParallelSettings, SettingsError, before_work

_AT_ONCE = 256  # samples that are measured between two words of progress
RANGE = 64  # samples of a range are a multiple of this, where there are so many
# Packed sequences of a data-parallel rank between two pauses: fewer leave pipelines half empty.
_SEQUENCES, _SEQUENCES_OF_PIPELINE = 4, 16


def open_architecture(settings: JobSettings, world_size: int | None = None) -> Architecture:
    """The sizes of the model of `model.folder`. world_size: ranks of the job; None: those of this one.

    Raises SettingsError when backend, layout or ranks do not fit it."""
    with before_work():
        architecture = Architecture.from_folder(settings.model.folder)
        check_backend(settings.model.backend)
        use_flash_attention(settings.model.flash_attention)
        check_layout(architecture, settings.parallel)
        check_recompute(architecture, settings.model)
        settings.parallel.data_parallel_size(world_size or platform.world_size())
    return architecture


def open_dataset(
    settings: JobSettings, answers: Answers = "instruction", shards: ShardReader | None = None
) -> PairDataset:
    """The job's pairs as token sequences. shards: those of the settings, where they are open.

    Raises SettingsError for folders, tokenizer or prompt that cannot be used."""
    with before_work():
        return open_pairs(
            _reader(settings) if shards is None else shards,  # a reader of no samples is false
            settings.model.folder,
            min_pixels=settings.data.min_pixels,
            max_pixels=settings.data.max_pixels,
            prompt=settings.data.prompt,
            answers=answers,
            shared_prompt=settings.data.shared_prompt,
        )


def _reader(settings: JobSettings) -> ShardReader:
    samples = JobSamples.of(settings.data, settings.training.seed)
    samples.update()
    return ShardReader(samples.directories, samples.read())


@dataclass(frozen=True)
class SampleWork:
    """FLOPs of samples, by which the ranks share a step. A class, as readers travel to other processes."""

    architecture: Architecture
    dataset: PairDataset
    lengths: SampleLengths

    def __call__(self, samples: Sequence[int]) -> list[float]:
        tokens, answers = self.lengths.num_tokens[samples], self.lengths.answers[samples]
        patches, shared = self.dataset.patches(samples), self.dataset.shared_prompt
        flops: list[float] = sample_flops(self.architecture, tokens, answers, patches, shared_prompt=shared).tolist()
        return flops


def open_reader(
    settings: JobSettings, dataset: PairDataset, lengths: SampleLengths, architecture: Architecture
) -> SequenceReader[PairDataset]:
    """Reads this rank's packed sequences. After `platform.initialize`."""
    packer = Packer(
        image_settings=dataset.images,
        image_token_id=dataset.encoder.image_token_id,
        pad_token_id=dataset.encoder.pad_token_id,
        num_grid_per_side=architecture.vision.num_grid_per_side,
        sequence_length=settings.data.sequence_length,
        packing=settings.data.packing,
        share=rank_share(settings.parallel),
    )
    work = SampleWork(architecture, dataset, lengths)
    return SequenceReader(dataset, lengths, packer, work, dataset.place if settings.data.skips_bad_samples else None)


def range_size(reader: SequenceReader[PairDataset]) -> int:
    """Samples that a data-parallel rank computes in one go, of a pass over all: at least `RANGE`, and enough to fill
    its pipeline; fewer where each rank would not have as many."""
    lengths, ranks = reader.lengths.num_tokens, reader.packer.share.data_parallel_size
    sequences = _SEQUENCES_OF_PIPELINE if parallel_state.get_pipeline_model_parallel_world_size() > 1 else _SEQUENCES
    tokens = sequences * reader.packer.sequence_length
    return min(RANGE * -(-tokens // (RANGE * max(1, int(lengths.mean())))), -(-len(lengths) // ranks))


def rank_share(parallel: ParallelSettings, *, on_gpu: bool | None = None) -> RankShare:
    """What this rank computes of each step. After `platform.initialize`. on_gpu: None where this process computes."""
    if on_gpu is None:
        on_gpu = platform.device().type == "cuda"
    return RankShare(
        data_parallel_size=parallel_state.get_data_parallel_world_size(),
        data_parallel_rank=parallel_state.get_data_parallel_rank(),
        sequence_multiple=parallel.sequence_multiple,
        length_multiple=length_multiple(parallel, on_gpu=on_gpu),
        with_images=parallel_state.is_pipeline_first_stage(),
        num_vision_ranks=parallel.tensor_model_parallel_size if parallel.use_sequence_parallel else 1,
        vision_rank=parallel_state.get_tensor_model_parallel_rank() if parallel.use_sequence_parallel else 0,
    )


def length_multiple(parallel: ParallelSettings, *, on_gpu: bool) -> int:
    """What the length of a packed sequence is a multiple of: the tensor-parallel ranks that divide it, and on GPUs 128
    tokens besides, so that their allocator meets fewer sizes and products the tiles of their kernels."""
    return math.lcm(parallel.tensor_model_parallel_size, 128 if on_gpu else 1)


def layout_of(parallel: ParallelSettings) -> platform.Layout:
    """The same sizes as `platform.initialize` takes them."""
    return platform.Layout(
        tensor=parallel.tensor_model_parallel_size,
        pipeline=parallel.pipeline_model_parallel_size,
        virtual_pipeline=parallel.virtual_pipeline_model_parallel_size,
        expert=parallel.expert_model_parallel_size,
        expert_tensor=parallel.expert_tensor_parallel_size,
    )


def measure_samples(
    dataset: PairDataset,
    sequence_length: int,
    tables: Path | None = None,
    progress: Progress = no_progress,
    *,
    skip_bad: bool = False,
) -> SampleLengths:
    """The lengths of all samples, each of which can be used and fits: known before any work. skip_bad: those whose
    records cannot be read have none.

    Collective: the ranks share the reading, once for the folder `tables`; and once for all jobs on the whole of one
    folder of shards, which keeps the lengths for each tokenizer, prompt and limits of pictures. All raise alike:
    SettingsError for samples that cannot be used, OSError for files that cannot be read."""
    key = {
        "format": 1, "data": dataset.fingerprint, "answers": dataset.answers, "shared_prompt": dataset.shared_prompt,
    }  # fmt: skip
    path = tables / "lengths.safetensors" if tables else None
    shared = dataset.shards.folder
    if shared is not None:
        digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:12]
        shared = shared / f"lengths-{digest}.safetensors"
    made = table(path, key, lambda: {"lengths": _measured(dataset, sequence_length, progress, skip_bad)}, shared=shared)
    lengths = SampleLengths(made["lengths"])
    unread = np.flatnonzero(lengths.num_tokens == 0)  # when they were measured
    if len(unread):
        with platform.together():
            again, problems = dataset.measure(unread.tolist(), sequence_length, skip_bad=skip_bad)
        if problems:
            raise _unusable(problems[0], len(problems), lengths, sequence_length)
        if again.table.any():
            lengths = SampleLengths(np.array(lengths.table))
            lengths.table[unread] = again.table
    too_long = np.flatnonzero(lengths.num_tokens > sequence_length)  # of a table that was made for longer rows
    if len(too_long):
        with platform.together():
            _, problems = dataset.measure(too_long[:1].tolist(), sequence_length)
        raise _unusable(problems[0], len(too_long), lengths, sequence_length)
    return lengths


def _measured(dataset: PairDataset, sequence_length: int, progress: Progress, skip_bad: bool) -> np.ndarray:
    problems: list[str] = []
    parts = [np.zeros((0, 1 + dataset.most_answers), np.int32)]
    with platform.together():
        mine = platform.share(range(len(dataset)))
        for some in batched(progress(mine, len(mine), "samples"), _AT_ONCE):
            part, of_part = dataset.measure(some, sequence_length, skip_bad=skip_bad)
            parts.append(part.table)
            problems += of_part
    problems = [problem for of_rank in platform.gather(problems) for problem in of_rank]
    lengths = SampleLengths(platform.gather_shares(np.concatenate(parts)))
    if problems:
        raise _unusable(problems[0], len(problems), lengths, sequence_length)
    return lengths.table


def _unusable(problem: str, count: int, lengths: SampleLengths, sequence_length: int) -> SettingsError:
    """The first problem, how many there are, and the longest sample, or it is learned one raise at a time."""
    more = f" (and {count - 1} more such samples" if count > 1 else ""
    if more:
        longest = int(lengths.num_tokens.max())
        more += f"; the longest takes {longest} tokens)" if longest > sequence_length else ")"
    return SettingsError(problem + more)
