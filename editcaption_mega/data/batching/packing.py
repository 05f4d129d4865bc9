"""Samples -> packed sequences. The plan needs token counts only; `Packer.collate` turns a part of it into a batch."""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from editcaption_mega.data.images.patches import Grid, ImageSettings, grid_tokens

from .balance import dealt, leveled
from .batch import ImageBatch, PackedBatch
from .image_batch import build_image_batch
from .sample import EncodedSample, UnreadImage


@dataclass(frozen=True)
class RankShare:
    """Which part of each step this rank computes, as its process groups say."""

    data_parallel_size: int = 1
    data_parallel_rank: int = 0
    sequence_multiple: int = 1  # sequences per data-parallel rank come in multiples of this (interleaved pipelining)
    length_multiple: int = 1  # a sequence's length is a multiple of this (tensor-parallel ranks)
    with_images: bool = True  # the first pipeline stage, which holds the vision tower
    num_vision_ranks: int = 1
    vision_rank: int = 0


class Plan(NamedTuple):
    """This rank's packed sequences of a step, each as positions among the samples that were planned, and the length in
    tokens that all sequences of the step have on every rank. padding: the share of all these tokens that is none of a
    sample; imbalance: the most work that a data-parallel rank has over the mean (1.0 where it is not known)."""

    sequences: list[list[int]]
    length: int
    padding: float = 0.0
    imbalance: float = 1.0


def plan_sequences(
    lengths: Sequence[int], sequence_length: int, multiple: int, packing: bool = True
) -> list[list[int]]:
    """Divide the samples of one optimizer step into packed sequences, for all ranks.

    lengths[i] is the token count of sample i; no sequence exceeds `sequence_length`; the number of sequences is a
    multiple of `multiple` (ranks that need work), every sequence holds a sample, and they are about equally long. A
    pure function. Raises ValueError when there are fewer samples than `multiple`."""
    if len(lengths) < multiple:
        raise ValueError(
            f"{len(lengths)} samples in a step cannot feed {multiple} rows at once: raise "
            f"training.global_batch_size to a multiple of {multiple}, or use fewer data-parallel ranks"
        )
    if not packing:
        if len(lengths) % multiple:
            raise ValueError(
                f"training.global_batch_size={len(lengths)} without packing must be a multiple of {multiple} "
                "(data-parallel ranks, times pipeline stages when interleaved)"
            )
        return [[i] for i in range(len(lengths))]
    least = -(-sum(lengths) // sequence_length)
    count = max(multiple, -(-least // multiple) * multiple)
    # Longest first, each to the emptiest sequence: they come out level, so little padding is computed.
    by_length = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    while count <= len(lengths):
        sequences: list[list[int]] = [[] for _ in range(count)]
        fill = [(0, sequence) for sequence in range(count)]
        for i in by_length:
            tokens, sequence = fill.pop(0)
            if tokens + lengths[i] > sequence_length:
                break
            sequences[sequence].append(i)
            bisect.insort(fill, (tokens + lengths[i], sequence))
        else:
            return leveled(lengths, sequences)
        count += multiple
    raise ValueError(
        f"the samples of a step do not fit into rows of data.sequence_length={sequence_length} with a row count that "
        f"is a multiple of {multiple}: raise data.sequence_length or training.global_batch_size"
    )


def sample_positions(
    prompt_ids: tuple[int, ...],
    grids: Sequence[Grid],
    answer_lengths: tuple[int, ...],
    image_token_id: int,
    merge_size: int,
) -> Tensor:
    """3-D positions of a prompt and the answers behind it [3, tokens] (transformers: Qwen3VLModel.get_rope_index).

    Text advances all three axes by one; a picture spans its merged rows and columns from where the text stopped, and
    the text after it starts at the largest of the two. Each answer starts where the prompt ends."""
    parts, position, at, picture = [], 0, 0, 0
    while at < len(prompt_ids):
        if prompt_ids[at] == image_token_id:
            frames, height, width = grids[picture]
            rows, columns = height // merge_size, width // merge_size
            axes = torch.meshgrid(torch.arange(frames), torch.arange(rows), torch.arange(columns), indexing="ij")
            parts.append(torch.stack([axis.flatten() for axis in axes]) + position)
            at, position, picture = at + frames * rows * columns, position + max(rows, columns), picture + 1
        else:
            end = at
            while end < len(prompt_ids) and prompt_ids[end] != image_token_id:
                end += 1
            parts.append(torch.arange(position, position + end - at).expand(3, -1))
            position, at = position + end - at, end
    parts.extend(torch.arange(position, position + length).expand(3, -1) for length in answer_lengths)
    assert picture == len(grids), "the prompt holds as many picture slots as there are pictures"
    return torch.cat(parts, 1)


@dataclass(frozen=True)
class Packer:
    """How the samples of a step become packed sequences, and which of them this rank computes."""

    image_settings: ImageSettings
    image_token_id: int
    pad_token_id: int  # any but `image_token_id`
    num_grid_per_side: int  # of the vision tower's square table of learned positions
    sequence_length: int  # tokens of a packed sequence at most
    packing: bool = True  # several samples in a sequence
    share: RankShare = RankShare()

    def plan(self, lengths: Sequence[int], work: Sequence[float] | None = None) -> Plan:
        """This rank's part of a step whose samples have `lengths` tokens. Raises ValueError as `plan_sequences`.

        work: that of each sample in any unit, by which rows are dealt out to ranks; None: as they come."""
        share = self.share
        multiple = share.data_parallel_size * share.sequence_multiple
        sequences = plan_sequences(lengths, self.sequence_length, multiple, self.packing)
        sums = [sum(lengths[i] for i in sequence) for sequence in sequences]
        # Samples whose records cannot be read take nothing, maybe all of them.
        length = -(-max(1, *sums) // share.length_multiple) * share.length_multiple
        imbalance = 1.0
        if work is not None:
            sequences, imbalance = dealt(sequences, work, share.data_parallel_size)
        mine = sequences[share.data_parallel_rank :: share.data_parallel_size]
        return Plan(mine, length, 1 - sum(sums) / (length * len(sums)), imbalance)

    def collate(self, samples: Sequence[EncodedSample], length: int) -> PackedBatch:
        """One packed sequence of `length` tokens. Pictures are read only where `share.with_images`."""
        merge_size, image_token_id = self.image_settings.merge_size, self.image_token_id
        ids: list[int] = []
        keys: list[int] = []
        visual: list[int] = []
        predicting: list[int] = []
        targets: list[int] = []
        images: list[UnreadImage] = []
        bounds, key_bounds, response_bounds, positions = [0], [0], [0], []
        prompts = [(sample, answers) for sample in samples for answers in sample.prompts_with_answers]
        for sample, answers in prompts:
            prompt = range(len(ids), len(ids) + len(sample.prompt_ids))
            visual.extend(k for k, token in zip(prompt, sample.prompt_ids, strict=True) if token == image_token_id)
            ids.extend(sample.prompt_ids)
            for answer in answers:
                at = range(len(ids), len(ids) + len(answer))
                ids.extend(answer)
                targets.extend(answer)
                predicting.extend((prompt[-1], *at[:-1]))
                keys.extend((*prompt, *at))
                bounds.append(at.stop)
                key_bounds.append(len(keys))
                response_bounds.append(len(targets))
            lengths = tuple(map(len, answers))
            positions.append(sample_positions(sample.prompt_ids, sample.grids, lengths, image_token_id, merge_size))
            images.extend(sample.images)
        num_tokens = len(ids)
        assert num_tokens <= length, f"{num_tokens} tokens planned into a sequence of {length}"
        num_visual = sum(grid_tokens(image.grid, merge_size) for image in images)
        assert len(visual) == num_visual
        if num_tokens < length:
            padding = length - num_tokens
            ids.extend([self.pad_token_id] * padding)
            positions.append(torch.arange(padding).expand(3, -1))
            keys.extend(range(num_tokens, length))
            bounds.append(length)
            key_bounds.append(len(keys))
        return PackedBatch(
            input_ids=torch.tensor(ids).unsqueeze(0),
            position_ids=torch.cat(positions, 1).unsqueeze(1),
            padding_mask=(torch.arange(length) >= num_tokens).unsqueeze(0),
            bounds=tuple(bounds),
            key_bounds=tuple(key_bounds),
            key_index=torch.tensor(keys) if len(keys) > length else None,
            visual_positions=torch.tensor(visual, dtype=torch.long),
            images=self._images(images) if self.share.with_images else None,
            target_positions=torch.tensor(predicting, dtype=torch.long),
            target_positions_host=tuple(predicting),
            targets=torch.tensor(targets, dtype=torch.long),
            loss_weights=torch.ones(len(targets)),
            response_bounds=tuple(response_bounds),
            sample_ids=tuple(sample.id for sample in samples),
            num_tokens=num_tokens,
        )

    def _images(self, images: Sequence[UnreadImage]) -> ImageBatch:
        return build_image_batch(
            images,
            self.image_settings,
            num_grid_per_side=self.num_grid_per_side,
            num_ranks=self.share.num_vision_ranks,
            rank=self.share.vision_rank,
        )
