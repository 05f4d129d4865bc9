"""Runs on every rank: log-probs and gradients of preference pairs, with and without shared prompts.

Usage: -m tests.parity.shared_prompt_worker WORK KIND/LAYOUT [KIND/LAYOUT ...]; for tests/model/test_shared_prompt.py.
Each case leaves `WORK/gradients/SLUG` (a store) and `WORK/log_probs/SLUG.RANK` (safetensors) for each way of making
rows.
"""

import sys
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig, finalize_model_grads
from megatron.core.utils import get_model_config
from safetensors.torch import save_file

from editcaption_mega.data.batching.batch import PackedBatch
from editcaption_mega.training.pipeline import run_pipeline
from tests.helpers import tiny

from .worker import Case, finish, in_child, rows_of, slug_of

# Tokens: any two pairs fit as four plain sequences, and the second half, which is another rank's under sequence
# parallelism, begins between a shared prompt and its chosen answer (row 2).
ROW = 130
WAYS = {"shared": lambda pairs: pairs, "plain": tiny.unshared}


def upstream(batch: PackedBatch) -> torch.Tensor:
    """A random gradient for each response token, the same for a pair in any row: no two errors can cancel."""
    answers = [f"{name}{which}" for name in batch.sample_ids for which in ("chosen", "rejected")]
    lengths = [end - start for start, end in pairwise(batch.response_bounds)]
    seeds = [int.from_bytes(answer.encode()) % 2**31 for answer in answers]
    return torch.cat(
        [torch.randn(n, generator=torch.Generator().manual_seed(seed)) for n, seed in zip(lengths, seeds, strict=True)]
    )


def measure(work: Path, kind: str, layout: str) -> None:
    case = Case(work / kind, layout, slug_of(kind, layout))
    config = get_model_config(case.chunks[0])
    ddp = DistributedDataParallelConfig(use_distributed_optimizer=False, grad_reduce_in_fp32=True)
    wrapped = [
        DistributedDataParallel(config, ddp, chunk, disable_bucketing=i > 0) for i, chunk in enumerate(case.chunks)
    ]
    config.finalize_model_grads_func = finalize_model_grads
    config.grad_scale_func = None
    pairs = tiny.pairs(8, seed=5, text_only=(3, 6, 7))
    for way, made in WAYS.items():
        rows = rows_of(made(pairs), case.parallel, ROW)
        # As in `train_step`: Megatron averages over rows and data-parallel ranks, the loss here is a sum.
        scale = len(rows) * parallel_state.get_data_parallel_world_size()
        found: dict[str, torch.Tensor] = {}

        def loss(batch, log_probs, found=found, scale=scale):
            for i, (first, last) in enumerate(pairwise(batch.response_bounds)):
                found[f"{batch.sample_ids[i // 2]}.{i % 2}"] = log_probs[first:last].detach().clone()
            return (upstream(batch) * log_probs).sum() * scale, {}

        def forward(data, model, loss=loss):
            batch = next(data)
            return model(batch), partial(loss, batch)

        for chunk in wrapped:
            chunk.zero_grad_buffer()
        run_pipeline(forward, wrapped, rows, ROW, forward_only=False)
        slug = f"{slug_of(kind, layout)}-{way}"
        case.save_tensors(work / "gradients" / slug, lambda shard: shard.parameter.main_grad)
        if found and parallel_state.get_tensor_model_parallel_rank() == 0:
            (work / "log_probs").mkdir(exist_ok=True)
            save_file(found, work / "log_probs" / f"{slug}.{parallel_state.get_data_parallel_rank()}")
    finish(work, slug_of(kind, layout), "done", {})


def main() -> None:
    work = Path(sys.argv[1])
    for name in sys.argv[2:]:
        in_child(measure, work, *name.split("/"))


if __name__ == "__main__":
    main()
