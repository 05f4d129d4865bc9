"""One rank of a pipeline whose passes sleep: Megatron-Core's own schedule runs them and each notes when.

    torchrun ... -m tests.planning.timing.pipeline_program FOLDER CASES.json

CASES: [{"forward": [stage][chunk] seconds, "backward": .., "micro_batches": int, "group_size": int or null, and where
weight gradients are made later "gradients": [stage] seconds, "delayed": [stage] micro-batches}, ..].
Writes FOLDER/RANK.json: for each case the passes as [kind, chunk, micro-batch, start, end], and the step's seconds.
"""

import json
import sys
import time
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.enums import ModelType
from megatron.core.model_parallel_config import ModelParallelConfig
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.process_groups_config import ProcessGroupCollection

from editcaption_mega import platform
from editcaption_mega.model.parallel.delayed_gradients import DelayedGradients
from editcaption_mega.training.feature_transport import SCHEDULE_GROUPS
from editcaption_mega.training.gradient_sends import GradientSends

HIDDEN = 8


class Sleep(torch.autograd.Function):
    """The identity, after a rest in both directions."""

    @staticmethod
    def forward(ctx, hidden, chunk, micro_batch):
        ctx.chunk, ctx.micro_batch = chunk, micro_batch
        chunk.rest("forward", micro_batch)
        return hidden.clone()

    @staticmethod
    def backward(ctx, gradient):
        ctx.chunk.rest("backward", ctx.micro_batch)
        if ctx.chunk.delayed is not None:
            finish = partial(ctx.chunk.rest, "gradients", ctx.micro_batch)
            ctx.chunk.delayed.add(lambda: finish, None)
        return gradient.clone(), None, None


class Chunk(torch.nn.Module):
    """A model chunk with one weight, in the form that Megatron's schedules ask for."""

    model_type = ModelType.encoder_or_decoder

    def __init__(self, config, number, seconds, notes):
        super().__init__()
        self.config, self.number, self.seconds, self.notes = config, number, seconds, notes
        self.weight = torch.nn.Parameter(torch.ones(HIDDEN))
        self.input, self.resting, self.delayed = None, False, None

    def set_input_tensor(self, tensors):
        self.input = tensors[0]

    def rest(self, kind, micro_batch):
        start = time.monotonic()
        time.sleep(self.seconds[kind] if self.resting else 0)
        self.notes.append((kind, self.number, micro_batch, start, time.monotonic()))

    def forward(self, micro_batch):
        hidden = self.weight.expand(1, 1, HIDDEN) if self.input is None else self.input * self.weight
        return Sleep.apply(hidden, self, micro_batch)


def config_of(stages: int, chunks: int, group_size: int | None):
    """What `model.build` sets for a pipeline."""
    config = ModelParallelConfig(
        pipeline_model_parallel_size=stages,
        virtual_pipeline_model_parallel_size=chunks if chunks > 1 else None,
        microbatch_group_size_per_vp_stage=group_size,
        pipeline_dtype=torch.float32,
        batch_p2p_comm=chunks == 1,
        overlap_p2p_comm=chunks > 1,
    )
    config.hidden_size = HIDDEN
    return config


def run_case(case: dict, stage: int, stages: int) -> dict:
    chunks = len(case["forward"][0])
    platform.initialize(platform.Layout(pipeline=stages, virtual_pipeline=chunks if chunks > 1 else None), seed=0)
    config, notes = config_of(stages, chunks, case["group_size"]), []
    if case.get("delayed"):
        config.batch_p2p_comm = False
    model = [
        Chunk(config, chunk, {kind: case[kind][stage][chunk] for kind in ("forward", "backward")}, notes)
        for chunk in range(chunks)
    ]

    counts = case.get("delayed")
    if counts and stage:
        model[0].delayed = DelayedGradients(counts[stage])
        model[0].seconds["gradients"] = case["gradients"][stage]

    def loss(output):
        return output.sum(), {}

    def forward(data, chunk):
        return chunk(next(data)), partial(loss)

    def step():
        # As `training.pipeline.run_pipeline` calls it.
        options = {}
        if model[0].delayed is not None:
            options["p2p_communicator"] = GradientSends(config, model[0].delayed, case["micro_batches"])
            options["pg_collection"] = ProcessGroupCollection.use_mpu_process_groups(SCHEDULE_GROUPS)
        iterators = [iter(range(case["micro_batches"])) for _ in model]
        get_forward_backward_func()(
            forward_step_func=forward,
            data_iterator=iterators if chunks > 1 else iterators[0],
            model=model if chunks > 1 else model[0],
            num_microbatches=case["micro_batches"],
            seq_length=1,
            micro_batch_size=1,
            forward_only=False,
            **options,
        )

    step()  # what is made by its first use is made
    notes.clear()
    for chunk in model:
        chunk.resting = True
    dist.barrier()
    start = time.monotonic()
    step()
    end = time.monotonic()
    parallel_state.destroy_model_parallel()
    return {"passes": notes, "start": start, "end": end}


if __name__ == "__main__":
    folder, cases = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    results = [run_case(case, rank, size) for case in cases]
    (folder / f"{rank}.json").write_text(json.dumps(results))
    dist.barrier()
    dist.destroy_process_group()
