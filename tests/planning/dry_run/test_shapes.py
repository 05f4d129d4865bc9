"""What is looked up is what the operator would have returned, and what shares memory is never looked up."""

import torch

from editcaption_mega.planning.dry_run.shapes import KnownShapes

ADD, SORT, VIEW = torch.ops.aten.add.Tensor, torch.ops.aten.sort.default, torch.ops.aten.view.default


def form(out):
    parts = out if isinstance(out, tuple) else (out,)
    return type(out), [(part.shape, part.stride(), part.dtype, part.device) for part in parts]


def test_a_second_call_gives_new_tensors_of_the_same_form():
    known, x = KnownShapes(), torch.empty(3, 4, device="meta", dtype=torch.bfloat16)
    for func, args in ((ADD, (x, x)), (ADD, (x, 1)), (ADD, (x.T, x.T)), (ADD, (x, x.float())), (SORT, (x,))):
        first, second = known.call(func, args, {}), known.call(func, args, {})
        assert form(first) == form(second) == form(func(*args))
        assert (first[0] if isinstance(first, tuple) else first) is not (
            second[0] if isinstance(second, tuple) else second
        )


def test_numbers_that_are_equal_and_of_other_types_are_told_apart():
    known, x = KnownShapes(), torch.empty(3, device="meta", dtype=torch.int64)
    assert [known.call(ADD, (x, number), {}).dtype for number in (1, 1.0, 1)] == [
        torch.int64, torch.float32, torch.int64,
    ]  # fmt: skip


def test_a_view_stays_a_view():
    known, x = KnownShapes(), torch.empty(6, device="meta")
    for _ in range(2):
        view = known.call(VIEW, (x, [2, 3]), {})
        assert view.untyped_storage()._cdata == x.untyped_storage()._cdata
