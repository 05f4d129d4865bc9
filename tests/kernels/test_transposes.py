"""Copies by the extension's tiles, and by blocks without it, give the bits of PyTorch's own."""

import pytest
import torch

from editcaption_mega.conversion.tensor_file import in_own_memory
from editcaption_mega.kernels import transposes
from editcaption_mega.kernels.transposes import contiguous, copy_values

COMPILED = transposes._transpose


@pytest.fixture(autouse=True, params=["tiles", "blocks"])
def way(request, monkeypatch):
    if request.param == "tiles" and COMPILED is None:
        pytest.skip("the extension is not built, or from before it transposed: make setup")
    monkeypatch.setattr(transposes, "_transpose", COMPILED if request.param == "tiles" else None)


DTYPES = [torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn, torch.bool]


def bits(shape, dtype):
    count = torch.Size(shape).numel() * dtype.itemsize
    top = 2 if dtype == torch.bool else 256  # NaN of any bits are among them
    return torch.randint(0, top, (count,), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)).view(dtype)


def same_bits(a, b):
    return a.dtype == b.dtype and torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "shape", [(3, 130, 70), (2, 1, 64, 65), (64, 64), (33, 16), (5, 3), (2, 200, 1), (1, 1), (0, 4, 3), (3, 0, 2)]
)
def test_transposed_matrices(shape, dtype):
    whole = bits(shape, dtype).view(shape)
    values = whole.mT
    expected = torch.empty(values.shape, dtype=dtype).copy_(values)
    assert same_bits(contiguous(values), expected) and contiguous(values).is_contiguous()
    assert same_bits(in_own_memory(values), expected)
    wider = torch.zeros(*values.shape[:-1], values.shape[-1] + 5, dtype=dtype)
    copy_values(wider[..., 3:-2], values)
    assert same_bits(wider[..., 3:-2].contiguous(), expected)
    assert not wider[..., :3].view(torch.uint8).any() and not wider[..., -2:].view(torch.uint8).any()


@pytest.mark.parametrize("region", [(slice(1, 3), slice(None), slice(10, 90)), (0, slice(5, 6), slice(0, 64))])
def test_a_region_of_transposed_matrices_in_another_dtype(region):
    values = bits((3, 80, 100), torch.bfloat16).view(3, 80, 100).nan_to_num().mT[region[0], region[2], region[1]]
    out = torch.empty(values.shape, dtype=torch.float32)
    copy_values(out, values)
    assert torch.equal(out, values.float())


def test_parameters_and_other_orders_are_copied_too():
    values = torch.randn(2, 70, 80, generator=torch.Generator().manual_seed(2))
    for view in (values, values.mT, values.permute(1, 2, 0), values.permute(2, 1, 0), values[:, ::2].mT, values[0, 0]):
        parameter = torch.nn.Parameter(torch.zeros(view.shape))
        with torch.no_grad():
            copy_values(parameter, view)
        assert torch.equal(parameter, view) and torch.equal(contiguous(view), view)
        there = torch.zeros(view.shape[::-1]).permute(*range(view.dim())[::-1])
        copy_values(there, view)
        assert torch.equal(there, view)
