"""AdamW in one kernel for all parameters of a group, on Megatron's distributed optimizer."""

import torch

from editcaption_mega import platform
from editcaption_mega.settings import OptimizerSettings
from editcaption_mega.training.megatron_optimizer import (
    MASTER,
    begin_state,
    finish_gathers,
    parameter_state,
)
from tests.helpers import tiny
from tests.helpers.train_state import train_state


def test_one_kernel_updates_as_many_do(tmp_path):
    """PyTorch's AdamW has the kernel on CPUs, too."""
    tiny.hf_model(experts=True, layers=2).save_pretrained(tmp_path)
    results = []
    for fused in (False, True):
        trained, shards = train_state(tmp_path, OptimizerSettings(), precision="fp32")
        groups = [g for part in trained.optimizer.chained_optimizers for g in part.optimizer.param_groups]
        assert all(group["fused"] for group in groups)  # as every job has it
        for group in groups:
            group["fused"] = fused
        begin_state(trained.optimizer, 3)
        generator = torch.Generator().manual_seed(1)
        for shard in shards:
            parameter = shard.parameter
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator))
            parameter_state(trained.optimizer, parameter).tensors[MASTER].detach().copy_(parameter.data.flatten())
            parameter.main_grad.detach().copy_(torch.randn(parameter.shape, generator=generator))
        trained.optimizer.step()
        finish_gathers(trained.optimizer)
        results.append([shard.parameter.detach().clone() for shard in shards])
        platform.destroy()
    for many, one in zip(*results, strict=True):
        torch.testing.assert_close(one, many, atol=1e-7, rtol=1e-6)
