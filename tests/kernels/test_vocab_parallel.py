"""The vocabulary split over processes (gloo) gives what one process gives, and the same bits on all."""

import sys

import pytest
import torch

from tests.helpers import warm

WORKER = """
import sys, torch, torch.distributed as dist
from editcaption_mega.kernels import available_backends, linear_log_probs
torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, size = dist.get_rank(), dist.get_world_size()
calls = []
for name in ("all_gather_into_tensor", "all_gather", "all_reduce", "broadcast", "reduce_scatter_tensor"):
    def counted(*a, _real=getattr(dist, name), _name=name, **k):
        calls.append(_name)
        return _real(*a, **k)
    setattr(dist, name, counted)
results = {}
for backend in available_backends():
    if backend == "cuda":
        continue
    for dtype in (torch.float32, torch.bfloat16):
        for rows, vocab_size in ((0, 96), (13, 96), (13, 85), (13, 40)):
            g = torch.Generator().manual_seed(0)
            x = torch.randn(rows, 16, generator=g).to(dtype).requires_grad_()
            weight = torch.randn(96, 16, generator=g).to(dtype)
            targets = torch.randint(0, vocab_size, (rows,), generator=g)
            if rows:
                targets[:4] = torch.tensor([0, 39, vocab_size - 1, min(48, vocab_size - 1)])
            upstream = torch.randn(rows, generator=g)
            shard = 96 // size
            w = weight[rank * shard:(rank + 1) * shard].clone().requires_grad_()
            calls.clear()
            found = linear_log_probs(x, w, targets, group=dist.group.WORLD, backend=backend, vocab_size=vocab_size)
            dx, dw = torch.autograd.grad(found, (x, w), upstream)
            assert calls == (["all_gather_into_tensor"] if size > 1 else []), calls  # no copies of its parts
            _, details = linear_log_probs(
                x, w, targets, group=dist.group.WORLD, backend=backend, vocab_size=vocab_size, details=True,
                max_logits_bytes=500,
            )
            results[backend, dtype, rows, vocab_size] = (
                found.detach(), dx.float(), dw.float(), *details[:2], details.argmax
            )
try:
    linear_log_probs(x, w, targets + 96, group=dist.group.WORLD)
except ValueError as error:
    results["error"] = str(error)
torch.save(results, f"{sys.argv[1]}/{size}_{rank}.pt")
dist.destroy_process_group()
"""


def launch(tmp_path, size):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    warm.run_ranks([sys.executable, script, tmp_path], size)
    return [torch.load(tmp_path / f"{size}_{rank}.pt") for rank in range(size)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocab_parallel")
    return launch(folder, 1)[0], {2: launch(folder, 2), 4: launch(folder, 4)}


@pytest.mark.parametrize("size", [2, 4])
def test_ranks_equal_one(runs, size):
    one, two = runs[0], runs[1][size]
    assert set(one) == set(two[0]) and len(one) > 4
    for case in one:
        if case == "error":
            continue
        tolerance = 1e-6 if case[1] == torch.float32 else 1e-2  # the gradients are bf16
        alone, ranks = one[case], [rank[case] for rank in two]
        torch.testing.assert_close(ranks[0][0], alone[0], atol=1e-6, rtol=1e-6)
        for details, expected in zip(ranks[0][3:], alone[3:], strict=True):
            torch.testing.assert_close(details, expected, atol=2e-6, rtol=2e-6)
        dx = sum(rank[1] for rank in ranks)  # each rank's part; the caller's mapping sums them
        torch.testing.assert_close(dx, alone[1], atol=10 * tolerance, rtol=tolerance)
        torch.testing.assert_close(
            torch.cat([rank[2] for rank in ranks]), alone[2], atol=10 * tolerance, rtol=tolerance
        )


@pytest.mark.parametrize("size", [2, 4])
def test_every_rank_returns_the_same_bits(runs, size):
    first, *others = runs[1][size]
    for case in first:
        if case == "error":
            continue
        for other in others:
            for part in (0, 3, 4):
                bits = first[case][part].view(torch.int32), other[case][part].view(torch.int32)
                assert torch.equal(*bits), case


@pytest.mark.parametrize("size", [2, 4])
def test_a_target_outside_is_refused_on_every_rank_before_communicating(runs, size):
    one, ranks = runs[0], runs[1][size]
    assert one["error"].startswith("linear_log_probs: `targets` must lie in [0, 96)")
    assert all(rank["error"] == one["error"] for rank in ranks)
