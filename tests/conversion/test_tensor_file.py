"""Files of tensors that are made while they are written."""

import pytest
import torch
from safetensors.torch import load_file

from editcaption_mega.conversion import tensor_file
from editcaption_mega.conversion.tensor_file import TensorForm, page_blocks, sha256_of, write_parts
from editcaption_mega.disk_file import PAGE


def numbers(count, dtype=torch.uint8):
    values = torch.randint(0, 256, (count * dtype.itemsize,), dtype=torch.uint8)
    return values.view(dtype)


def bytes_of(tensors):
    return b"".join(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() for tensor in tensors)


def contents(monkeypatch, block=3 * PAGE):
    """Tensors that begin anywhere, some larger than a block, some transposed, some empty."""
    monkeypatch.setattr(tensor_file, "_BLOCK", block)
    matrix = numbers(150 * 70, torch.bfloat16).view(150, 70)
    return [
        numbers(PAGE + 24), numbers(5, torch.float32), matrix.T, matrix[10:20, 3:9].T,
        numbers(0, torch.float32).view(0, 3),
        numbers(11 * PAGE, torch.bfloat16), *(numbers(7, torch.bfloat16) for _ in range(3000)), matrix,
        torch.tensor(True), numbers(5),
    ]  # fmt: skip


@pytest.mark.parametrize("waiting", [1, 3])
def test_blocks_hold_the_bytes_and_stay_until_others_are_asked_for(monkeypatch, waiting):
    tensors = contents(monkeypatch)
    kept, made = [], []
    for block in page_blocks(tensors, waiting=waiting):
        made.append(bytes_of([block]))
        kept = [*kept, (block, made[-1])][-waiting - 1 :]
        assert all(bytes_of([old]) == content for old, content in kept)
        assert block.data_ptr() % PAGE == 0
    assert b"".join(made) == bytes_of(tensors)
    assert len(made) > 5 and all(len(block) % PAGE == 0 for block in made[:-1])


@pytest.mark.parametrize("digest", [True, False])
@pytest.mark.parametrize("direct", [True, False])
def test_files_are_alike_whichever_way_they_are_written(tmp_path, monkeypatch, direct, digest):
    tensors = {f"tensor {number}": tensor for number, tensor in enumerate(contents(monkeypatch))}
    forms = {name: TensorForm(tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    path = tmp_path / "file.safetensors"

    def parts(name):
        tensor = tensors[name]
        yield from tensor.split(max(1, len(tensor) // 3)) if tensor.dim() else (tensor,)

    writing = write_parts(path, forms, parts, metadata={"format": "pt"}, digest=digest, direct=direct)
    counted = 0
    while True:
        try:
            counted += next(writing)
        except StopIteration as end:
            assert end.value == (sha256_of(path) if digest else None)
            break
    assert counted == path.stat().st_size
    read = load_file(path)
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype and read[name].shape == tensor.shape
        assert bytes_of([read[name]]) == bytes_of([tensor]), name
