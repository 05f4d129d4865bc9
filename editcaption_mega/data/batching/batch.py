"""What a model sees of one packed sequence. Built on the host by `packing.Packer.collate`, moved once by `to`."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from editcaption_mega.data.shards.unreadable import BadSample


@dataclass
class ImageBatch:
    """This rank's part of a sequence's pictures, with zeros as many patches as the others' have: some pictures whole,
    or an even part of all of them, whose patches stand one after another.

    pixels                [patches / ranks, patch_size ** 2 * 3] uint8: row, column, channel
    normalization         [2, 3] fp32: mean and standard deviation of the channels (`patches.normalized`)
    position_ids          [patches / ranks, 2] int64: row and column of each patch, in merge-block order
    interpolation_index   [patches / ranks, 4] int64 into the table of learned positions
    interpolation_weight  [patches / ranks, 4] fp32
    bounds, cu_seqlens    segment bounds in patches of this rank's pictures, or of all ranks' where parts are even, and
                          of what fills them up: host ints, and int32 on the device
    places                host ints: where the sequence's visual tokens, in its order, stand among those of all ranks,
                          one rank's after another's
    num_tokens            visual tokens of the sequence
    num_ranks             that share the pictures
    whole_pictures        whether each rank has its pictures whole
    """

    pixels: Tensor
    normalization: Tensor
    position_ids: Tensor
    interpolation_index: Tensor
    interpolation_weight: Tensor
    bounds: tuple[int, ...]
    cu_seqlens: Tensor
    places: tuple[slice, ...]
    num_tokens: int
    num_ranks: int
    whole_pictures: bool

    def to(self, device: torch.device) -> "ImageBatch":
        return _moved(self, device)


@dataclass
class PackedBatch:
    """One packed sequence of samples, each with one answer (SFT) or two: chosen, then rejected (preference pairs).

    The prompt of a pair stands once, before its answers: [prompt | chosen | rejected]. A segment is then a run of
    queries, [prompt, chosen] or [rejected], and its keys are gathered: [prompt, chosen] and [prompt, rejected].
    Elsewhere the keys of a segment are its own tokens.

    input_ids         [1, length] int64, padded at the end
    position_ids      [3, 1, length] int64: time, height, width; both answers of a pair start at the same position
    padding_mask      [1, length] bool, True on padding
    bounds            host ints; segment i is tokens bounds[i] : bounds[i + 1]; the padding is a segment of its own
    key_bounds        host ints; the keys of segment i are key_bounds[i] : key_bounds[i + 1]; `bounds` unless prompts
                      are shared
    key_index         [keys] int64: the token that each key comes from; None unless prompts are shared
    visual_positions  [visual tokens] int64: where they stand in the sequence
    images            only on ranks that hold the vision tower
    target_positions  [responses] int64: where in the sequence a response token is predicted, answer after answer (also
                      as host ints); the end of a shared prompt predicts the first token of both answers, so it is here
                      twice and they are not ascending
    targets           [responses] int64: those response tokens
    loss_weights      [responses] fp32
    response_bounds   host ints; the response tokens of answer i are response_bounds[i] : response_bounds[i + 1];
                      answers are those of sample 0, then of sample 1, ..: for pairs 2 k is chosen, 2 k + 1 rejected
    sample_ids        ids of the samples in the sequence, in order; a pair is one sample
    sample_numbers    their numbers in the data, where it has numbers
    num_tokens        tokens without padding
    bad_samples       those of the sequence that are left out, because they cannot be read here
    """

    input_ids: Tensor
    position_ids: Tensor
    padding_mask: Tensor
    bounds: tuple[int, ...]
    key_bounds: tuple[int, ...]
    key_index: Tensor | None
    visual_positions: Tensor
    images: ImageBatch | None
    target_positions: Tensor
    target_positions_host: tuple[int, ...]
    targets: Tensor
    loss_weights: Tensor
    response_bounds: tuple[int, ...]
    sample_ids: tuple[str, ...]
    num_tokens: int
    sample_numbers: tuple[int, ...] = ()
    bad_samples: tuple[BadSample, ...] = ()

    def to(self, device: torch.device) -> "PackedBatch":
        """The batch on the device; without waiting where that is a GPU: its copies may still be running."""
        return _moved(self, device)

    def tensors(self) -> Iterator[Tensor]:
        """All that is on the device then."""
        for part in (self, self.images):
            yield from (value for value in vars(part).values() if isinstance(value, Tensor)) if part else ()


def _moved[Batch: (PackedBatch, ImageBatch)](batch: Batch, device: torch.device) -> Batch:
    if device.type == "cpu":
        return batch
    changes: dict[str, Any] = {}
    for item in dataclasses.fields(batch):
        value = getattr(batch, item.name)
        if isinstance(value, Tensor):
            value = value.pin_memory() if value.device.type == "cpu" and value.numel() else value
            changes[item.name] = value.to(device, non_blocking=True)
        elif isinstance(value, ImageBatch):
            changes[item.name] = value.to(device)
    return dataclasses.replace(batch, **changes)
