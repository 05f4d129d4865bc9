"""What `training/megatron_optimizer.py` relies upon inside Megatron-Core, name by name, and what it makes of it.

A new Megatron-Core that changes one of these names or what it gives fails here, under that name."""

import ast
from pathlib import Path

import pytest
import torch
from megatron.core import __version__
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer

from editcaption_mega import platform
from editcaption_mega.settings import OptimizerSettings
from editcaption_mega.training import megatron_optimizer
from editcaption_mega.training.megatron_optimizer import (
    MASTER,
    MOMENTS,
    begin_state,
    expect_gradients,
    finish_gathers,
    parameter_state,
    start_gathers,
)
from tests.helpers import tiny
from tests.helpers.train_state import train_state


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("moe")
    tiny.hf_model(experts=True, layers=2).save_pretrained(path)
    return path


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def state(request, folder):
    yield train_state(folder, OptimizerSettings(), precision=request.param)
    platform.destroy()


@pytest.fixture(scope="module")
def part(state):
    """The distributed optimizer of the dense parameters."""
    optimizer, param_shards = state[0].optimizer, state[1]
    begin_state(optimizer, 0)
    return next(p for p in optimizer.chained_optimizers if param_shards[0].parameter in p.model_param_gbuf_map)


MEND = f"megatron-core {__version__} differs from {megatron_optimizer.WRITTEN_FOR}: see training/megatron_optimizer.py"


def test_the_version_is_the_one_it_was_written_for():
    assert __version__.startswith(megatron_optimizer.WRITTEN_FOR + "."), MEND


def test_chained_optimizers(state):
    parts = state[0].optimizer.chained_optimizers
    assert parts and all(isinstance(part, DistributedOptimizer) for part in parts), MEND


def test_optimizer(part):
    assert isinstance(part.optimizer, torch.optim.AdamW), MEND


def test_model_param_gbuf_map(state):
    """Each trained parameter is a key in exactly one of the parts (one rank has them all)."""
    for shard in state[1]:
        owners = [p for p in state[0].optimizer.chained_optimizers if shard.parameter in p.model_param_gbuf_map]
        assert len(owners) == 1, MEND


def test_get_model_param_range_map(part, state):
    """On one rank the range is the whole parameter, flat."""
    parameter = state[1][0].parameter
    owned = part._get_model_param_range_map(parameter)["param"]
    assert (owned.start, owned.end) == (0, parameter.numel()), MEND


def test_get_main_param_and_optimizer_states(part, state):
    """Master weights and moments are the very tensors that AdamW works on, so what is written there counts."""
    parameter = state[1][0].parameter
    tensors = part._get_main_param_and_optimizer_states(parameter)
    assert {MASTER, *MOMENTS} <= tensors.keys(), MEND
    inner = {id(p): part.optimizer.state[p] for group in part.optimizer.param_groups for p in group["params"]}
    assert tensors[MASTER].dtype == torch.float32 and id(tensors[MASTER]) in inner, MEND
    assert all(tensors[name] is inner[id(tensors[MASTER])][name] for name in MOMENTS), MEND
    assert torch.equal(tensors[MASTER].to(parameter.dtype), parameter.detach().flatten()), MEND


def test_grad_accs(state):
    """One node for each trained parameter, and its hooks are to be reached through a new one."""
    (chunk,) = state[0].chunks
    assert len(chunk.grad_accs) == len(list(chunk.module.parameters())), MEND
    handle = chunk.grad_accs[0].register_hook(lambda *gradients: None)
    assert len(handle.hooks_dict_ref()) == 2, MEND
    handle.remove()


def test_model_chunks(state):
    assert all(part.model_chunks == state[0].chunks for part in state[0].optimizer.chained_optimizers), MEND


@pytest.fixture
def overlapping(state):
    """The wrapped chunk with its buckets, as two data-parallel ranks would have it; one rank gathers from itself."""
    (chunk,) = state[0].chunks
    chunk.ddp_config.overlap_param_gather = chunk.ddp_config.overlap_grad_reduce = True
    yield chunk
    chunk.ddp_config.overlap_param_gather = chunk.ddp_config.overlap_grad_reduce = False


def test_param_to_bucket_group(overlapping, state):
    """Each trained weight is in one group. A gather begins once, is waited for once, and is known to have begun until
    the next gradients are whole."""
    groups = set(overlapping.param_to_bucket_group.values())
    assert sum(len(group.params) for group in groups) == len(state[1]), MEND
    assert not any(group.param_gather_dispatched for group in groups), MEND
    finish_gathers(state[0].optimizer)
    assert not any(group.param_gather_dispatched for group in groups), "nothing to wait for before an update"
    start_gathers([overlapping])
    assert all(group.param_gather_dispatched and group.param_gather_handle for group in groups), MEND
    finish_gathers(state[0].optimizer)
    finish_gathers(state[0].optimizer)
    assert not any(group.param_gather_handle for group in groups), MEND
    for group in groups:
        group.start_grad_sync()
        group.finish_grad_sync()
        assert not group.param_gather_dispatched, MEND


def test_golden_per_param_grad_ready_counts(overlapping):
    """A bucket is reduced with its last gradient, in a first step too."""
    expect_gradients([overlapping])
    for group in set(overlapping.param_to_bucket_group.values()):
        group.grad_reduce_finished = False
        *others, last = group.params
        for parameter in others:
            group.register_grad_ready(parameter)
        assert group.grad_reduce_handle is None, MEND
        group.register_grad_ready(last)
        assert group.grad_reduce_handle is not None, MEND
        group.finish_grad_sync()


def test_a_name_that_is_gone_is_said(state, part, monkeypatch):
    monkeypatch.delattr(DistributedOptimizer, "_get_model_param_range_map")
    with pytest.raises(RuntimeError, match="has no DistributedOptimizer._get_model_param_range_map, which a job needs"):
        parameter_state(state[0].optimizer, state[1][0].parameter)


def test_updates_are_counted_from_where_the_checkpoint_was(state):
    begin_state(state[0].optimizer, 41)
    for part in state[0].optimizer.chained_optimizers:
        counts = [float(values["step"]) for values in part.optimizer.state.values()]
        assert counts and set(counts) == {41.0}


INNER_NAMES = {
    "model_param_gbuf_map",
    "_get_model_param_range_map",
    "_get_main_param_and_optimizer_states",
    "_init_optimizer_states_with_dummy_values",
    "chained_optimizers",
    "grad_accs",
    "param_to_bucket_group",
    "param_gather_dispatched",
    "golden_per_param_grad_ready_counts",
    "gbuf_ranges",
    "model_param_group_index_map",
}


def test_no_other_file_reads_the_inner_names():
    """As attributes or as strings; `platform`, which mends Megatron for the CPU, has its own rules."""
    readers = set()
    package = Path(megatron_optimizer.__file__).parents[1]
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "value", None)
            if isinstance(name, str) and name in INNER_NAMES:
                readers.add(path.relative_to(package).as_posix())
    assert readers == {"training/megatron_optimizer.py"}
