"""Samples -> rows. The plan needs token counts only; `collate` turns one planned row into a `PackedBatch`."""

import bisect
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .batch import Grid, PackedBatch
from .vision import ImageSettings, build_image_batch, grid_tokens


@dataclass(frozen=True)
class EncodedSample:
    """One sample as tokens: a prompt and its answers, which are one (SFT), two (chosen, rejected) or none yet.

    `patches(k)` decodes picture k (0: source, 1: target) -> [patches, patch_dim] fp32. With `shared_prompt` the
    prompt stands once before all answers, otherwise once before each: the same numbers from more tokens."""

    id: str
    prompt_ids: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]
    grids: tuple[Grid, ...]
    patches: Callable[[int], Tensor]
    shared_prompt: bool = True

    @property
    def answer_ids(self) -> tuple[int, ...]:
        """The tokens of all answers, one after the other."""
        return tuple(token for answer in self.answers for token in answer)

    @property
    def sequences(self) -> tuple[tuple[tuple[int, ...], ...], ...]:
        """The sample as sequences of a row: the answers that follow each copy of the prompt."""
        return (self.answers,) if self.shared_prompt else tuple((answer,) for answer in self.answers)

    @property
    def num_tokens(self) -> int:
        """What the sample takes of a row."""
        return len(self.prompt_ids) * len(self.sequences) + sum(len(answer) for answer in self.answers)


def plan_rows(lengths: list[int], row_length: int, multiple: int, packing: bool = True) -> list[list[int]]:
    """Divide the samples of one optimizer step into rows.

    lengths[i] is the token count of sample i; no row exceeds `row_length`; the number of rows is a multiple of
    `multiple` (ranks that need work), every row holds a sample, and the rows are about equally long. A pure function.
    Raises ValueError when there are fewer samples than `multiple`."""
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
    least = -(-sum(lengths) // row_length)
    count = max(multiple, -(-least // multiple) * multiple)
    # Longest first, each to the emptiest row: rows come out level, so little padding is computed.
    by_length = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    while count <= len(lengths):
        rows: list[list[int]] = [[] for _ in range(count)]
        fill = [(0, row) for row in range(count)]
        for i in by_length:
            tokens, row = fill.pop(0)
            if tokens + lengths[i] > row_length:
                break
            rows[row].append(i)
            bisect.insort(fill, (tokens + lengths[i], row))
        else:
            return [sorted(row) for row in rows]
        count += multiple
    raise ValueError(
        f"the samples of a step do not fit into rows of data.sequence_length={row_length} with a row count that is a "
        f"multiple of {multiple}: raise data.sequence_length or training.global_batch_size"
    )


def sample_positions(
    prompt_ids: tuple[int, ...], grids, answer_lengths: tuple[int, ...], image_token_id: int, merge: int
) -> Tensor:
    """3-D positions of a prompt and the answers behind it [3, tokens] (transformers: Qwen3VLModel.get_rope_index).

    Text advances all three axes by one; a picture spans its merged rows and columns from where the text stopped, and
    the text after it starts at the largest of the two. Each answer starts where the prompt ends."""
    parts, place, at, picture = [], 0, 0, 0
    while at < len(prompt_ids):
        if prompt_ids[at] == image_token_id:
            frames, rows, columns = grids[picture][0], grids[picture][1] // merge, grids[picture][2] // merge
            axes = torch.meshgrid(torch.arange(frames), torch.arange(rows), torch.arange(columns), indexing="ij")
            parts.append(torch.stack([axis.flatten() for axis in axes]) + place)
            at, place, picture = at + frames * rows * columns, place + max(rows, columns), picture + 1
        else:
            end = at
            while end < len(prompt_ids) and prompt_ids[end] != image_token_id:
                end += 1
            parts.append(torch.arange(place, place + end - at).expand(3, -1))
            place, at = place + end - at, end
    parts.extend(torch.arange(place, place + length).expand(3, -1) for length in answer_lengths)
    assert picture == len(grids), "the prompt holds as many picture slots as there are pictures"
    return torch.cat(parts, 1)


def collate(
    samples: list[EncodedSample],
    row_length: int,
    *,
    image_settings: ImageSettings,
    image_token_id: int,
    pad_token_id: int,
    table_side: int,
    with_images: bool = True,
    num_vision_ranks: int = 1,
    vision_rank: int = 0,
) -> PackedBatch:
    """One row of `row_length` tokens. Pictures are decoded only where `with_images` (the first pipeline stage)."""
    merge = image_settings.merge_size
    ids: list[int] = []
    bounds, keys, key_bounds, positions, visual, rows, targets = [0], [], [0], [], [], [], []
    response_bounds, grids, owners = [0], [], []
    sequences = [(sample, answers) for sample in samples for answers in sample.sequences]
    for sample, answers in sequences:
        prompt = range(len(ids), len(ids) + len(sample.prompt_ids))
        visual.extend(k for k, token in zip(prompt, sample.prompt_ids, strict=True) if token == image_token_id)
        ids.extend(sample.prompt_ids)
        for answer in answers:
            at = range(len(ids), len(ids) + len(answer))
            ids.extend(answer)
            targets.extend(answer)
            rows.extend((prompt[-1], *at[:-1]))
            keys.extend((*prompt, *at))
            bounds.append(at.stop)
            key_bounds.append(len(keys))
            response_bounds.append(len(targets))
        lengths = tuple(len(answer) for answer in answers)
        positions.append(sample_positions(sample.prompt_ids, sample.grids, lengths, image_token_id, merge))
        grids.extend(sample.grids)
        owners.extend((sample, k) for k in range(len(sample.grids)))
    num_tokens = len(ids)
    assert num_tokens <= row_length, f"{num_tokens} tokens planned into a row of {row_length}"
    assert len(visual) == sum(grid_tokens(grid, merge) for grid in grids)
    if num_tokens < row_length:
        padding = row_length - num_tokens
        ids.extend([pad_token_id] * padding)
        positions.append(torch.arange(padding).expand(3, -1))
        keys.extend(range(num_tokens, row_length))
        bounds.append(row_length)
        key_bounds.append(len(keys))
    images = None
    if with_images:
        images = build_image_batch(
            grids,
            lambda i: owners[i][0].patches(owners[i][1]),
            image_settings,
            table_side=table_side,
            num_ranks=num_vision_ranks,
            rank=vision_rank,
        )
    return PackedBatch(
        input_ids=torch.tensor(ids).unsqueeze(0),
        position_ids=torch.cat(positions, 1).unsqueeze(1),
        padding_mask=(torch.arange(row_length) >= num_tokens).unsqueeze(0),
        bounds=tuple(bounds),
        key_bounds=tuple(key_bounds),
        key_rows=torch.tensor(keys) if len(keys) > row_length else None,
        visual_positions=torch.tensor(visual, dtype=torch.long),
        images=images,
        target_rows=torch.tensor(rows, dtype=torch.long),
        target_rows_host=tuple(rows),
        targets=torch.tensor(targets, dtype=torch.long),
        loss_weights=torch.ones(len(targets)),
        response_bounds=tuple(response_bounds),
        sample_ids=tuple(sample.id for sample in samples),
        num_tokens=num_tokens,
    )
