"""Adapters in the weights of a model that transformers has loaded."""

import torch
from torch import Tensor

from editcaption_mega.conversion.jobs import folder_parts, piece_names
from editcaption_mega.conversion.rules import Box, Rule
from editcaption_mega.conversion.tensor_file import TensorForm
from editcaption_mega.conversion.trained_adapter import TrainedAdapter, merged


@torch.no_grad()
def add_adapter(model: torch.nn.Module, adapter: TrainedAdapter) -> None:
    """Add adapters to the weights in place: in fp32, rounded once, so they are those of the folder that
    `conversion.convert.merge_adapter` writes.

    model: transformers' of the same architecture, in any dtype; experts as [expert, out, in]."""
    parameters = dict(model.named_parameters())

    def read(rule: Rule, box: Box) -> Tensor:
        piece = next(piece for piece in rule.pieces if box.intersect(piece.box) == box)
        return piece.to_canonical(parameters[piece.name][piece.region(box)], box)

    read_merged = merged(read, adapter)
    adapted = {target.rule.name: target.rule for target in adapter.choice.targets}
    names = {target.name for target in adapter.choice.targets}
    for rule in adapted.values():
        for name, piece in piece_names(rule).items():
            if name.removesuffix(".weight") not in names:
                continue
            parameter, row = parameters[name], 0
            form = TensorForm(parameter.dtype, piece.hf_shape)
            for part in folder_parts(rule, name, form, read_merged):  # each is read before it is written
                parameter[row : row + len(part)] = part
                row += len(part)
