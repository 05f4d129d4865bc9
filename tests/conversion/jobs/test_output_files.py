"""How tensors are divided over files, and made in parts."""

import pytest
import torch

from editcaption_mega.conversion import Box, FolderReader
from editcaption_mega.conversion.jobs import canonical_parts, folder_parts, level_files, output_files, piece_names
from editcaption_mega.conversion.rules import unique_rules
from editcaption_mega.conversion.tensor_file import TensorForm
from tests.helpers import tiny


def forms(*sizes):
    return {f"t{i}": TensorForm(torch.uint8, (size,)) for i, size in enumerate(sizes)}


@pytest.mark.parametrize(
    "sizes, most, expected",
    [
        ([10] * 10, 30, [[10, 10], [10, 10, 10], [10, 10], [10, 10, 10]]),
        ([50, 1, 1, 1], 20, [[50], [1], [1, 1]]),  # a larger tensor than a file has one of its own
        ([5, 5, 5, 5], 100, [[5, 5, 5, 5]]),
        ([7, 7, 7], 10, [[7], [7], [7]]),
        ([], 10, [[]]),
    ],
)
def test_files_are_level_and_keep_the_order(sizes, most, expected):
    files = level_files(forms(*sizes), most)
    assert [[form.nbytes for form in file.values()] for file in files] == expected
    assert [name for file in files for name in file] == list(forms(*sizes))


def test_any_sizes_give_files_within_the_limit():
    draw = torch.Generator().manual_seed(3)
    for _ in range(200):
        sizes = torch.randint(1, 60, (40,), generator=draw).tolist()
        files = level_files(forms(*sizes), 100)
        loads = [sum(form.nbytes for form in file.values()) for file in files]
        assert max(loads) <= 100 and min(loads) > 0 and sum(loads) == sum(sizes)
        assert len(files) <= 2 * -(-sum(sizes) // 100)


@pytest.mark.parametrize("experts", [False, True])
@pytest.mark.parametrize("in_out", [False, True])
def test_parts_are_the_whole_tensor(tmp_path, monkeypatch, experts, in_out):
    """In either form, however small the parts."""
    tiny.hf_model(experts=experts, layers=3).save_pretrained(tmp_path)
    source = FolderReader(tmp_path)
    from editcaption_mega.conversion.rules import rules_for

    rules = unique_rules(rules_for(source.architecture, experts_in_out=in_out))
    plain = {name: tensor for rule in rules for name, tensor in whole_tensors(rule, source)}
    monkeypatch.setattr(output_files, "PART_BYTES", 1000)
    most = 0
    for rule in rules:
        boxes = list(canonical_parts(rule, 4))
        parts = [source.read(rule, box).flatten() for box in boxes]
        assert torch.equal(torch.cat(parts), source.read(rule).flatten()), rule.name
        most = max(most, len(boxes))
        for name, piece in piece_names(rule).items():
            made = list(folder_parts(rule, name, TensorForm(torch.float32, piece.hf_shape), source.read))
            assert torch.equal(torch.cat([part.reshape(-1) for part in made]), plain[name].flatten()), name
            most = max(most, len(made))
    assert most > 8


def whole_tensors(rule, source):
    """Hugging Face tensors of a rule, without parts: by the pieces' own description."""
    canonical, out = source.read(rule), {}
    for piece in rule.pieces:
        target = out.setdefault(piece.name, torch.empty(piece.hf_shape))
        target[piece.region(piece.box)] = piece.to_hf(canonical[piece.box.within(Box.whole(rule.shape))])
    return out.items()
