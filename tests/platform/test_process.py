"""How a rank leaves its process groups."""

import pytest
import torch
import torch.distributed as dist

from editcaption_mega.platform import process


@pytest.fixture
def left(monkeypatch):
    """-> what is called when a rank of two leaves; NCCL would wait there for a rank that never comes."""
    from megatron.core import parallel_state

    calls = []
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(process, "world_size", lambda: 2)
    monkeypatch.setattr(parallel_state, "destroy_model_parallel", lambda: calls.append("groups of the model"))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: calls.append("all groups"))
    return calls


@pytest.mark.parametrize(
    ("on_gpu", "after_failure", "leaves"), [(True, True, False), (True, False, True), (False, True, True)]
)
def test_a_rank_with_a_gpu_that_failed_waits_for_no_other(left, monkeypatch, on_gpu, after_failure, leaves):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: on_gpu)
    process.destroy(after_failure=after_failure)
    assert left == (["groups of the model", "all groups"] if leaves else [])
