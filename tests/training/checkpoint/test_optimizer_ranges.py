"""Which part of the optimizer's state is on which rank, and which part of it a rank writes and reads."""

import pytest
import torch

from editcaption_mega.conversion import FolderReader, StoreReader, StoreWriter, load_weights
from editcaption_mega.model import Architecture
from editcaption_mega.settings import OptimizerSettings
from editcaption_mega.training.checkpoint import load_optimizer, tensors_of_rank
from editcaption_mega.training.megatron_optimizer import begin_state, parameter_state
from tests.helpers import tiny
from tests.helpers.ranks import on_ranks
from tests.helpers.train_state import train_state


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("moe")
    tiny.hf_model(experts=True, layers=2).save_pretrained(path)
    return path


def ranges(rank, folder, expert):
    """On each rank: the range that it has of each parameter, the parameters' sizes, and the optimizers inside."""
    state, param_shards = train_state(folder, OptimizerSettings(), expert=expert)
    begin_state(state.optimizer, 0)
    owned = {shard.name: parameter_state(state.optimizer, shard.parameter) for shard in param_shards}
    owned = {name: value for name, value in owned.items() if value is not None}
    for value in owned.values():
        assert all(tensor.numel() == value.end - value.start for tensor in value.tensors.values())
    sizes = {shard.name: shard.parameter.numel() for shard in param_shards}
    found = {name: (value.start, value.end) for name, value in owned.items() if value.start < value.end}
    return found, sizes, len(state.optimizer.chained_optimizers)


def test_two_data_parallel_ranks_have_each_value_once(folder, tmp_path):
    (first, sizes, _), (second, _, _) = on_ranks(ranges, tmp_path, folder, 1)
    for name, size in sizes.items():
        parts = sorted(part[name] for part in (first, second) if name in part)
        assert parts[0][0] == 0 and parts[-1][1] == size, name
        assert len(parts) == 1 or parts[0][1] == parts[1][0], name
    assert first.keys() != second.keys(), "no parameter was on one rank alone: the test tested nothing"


def test_experts_have_an_optimizer_of_their_own(folder, tmp_path):
    """Two expert-parallel ranks: each has all of its experts, and a part of the rest."""
    for owned, sizes, parts in on_ranks(ranges, tmp_path, folder, 2):
        assert parts == 2, "dense and expert parameters have one distributed optimizer each"
        experts = [name for name in sizes if ".experts." in name]
        assert experts and all(owned[name] == (0, sizes[name]) for name in experts)
        assert len(owned) < len(sizes)


def saved_and_loaded(rank, folder, output, expert):
    """Save random states, load them into zeros -> (elements of moments that this rank has, wrote, read)."""
    state, param_shards = train_state(folder, OptimizerSettings(), expert=expert, precision="bf16")
    begin_state(state.optimizer, 1)
    owned = [parameter_state(state.optimizer, shard.parameter) for shard in param_shards]
    tensors = [tensor for value in owned if value is not None for tensor in value.tensors.values()]
    for tensor in tensors:
        tensor.normal_()
    before = [tensor.clone() for tensor in tensors]
    writer = StoreWriter(output)
    written = 0
    for name, shard, start, values in tensors_of_rank(param_shards, state.optimizer):
        writer.add_range(name + shard.rule.name, shard.rule.shape, shard.box, start, values)
        written += values.numel() if not name.startswith("weights") else 0
    writer.finish()
    for tensor in tensors:
        tensor.zero_()
    sizes, view = [], StoreReader.view

    def counted(self, key, box=None):
        values = view(self, key, box)
        sizes.append(values.numel())
        return values

    StoreReader.view = counted
    try:
        load_optimizer(output, {"updates": 1}, param_shards, state.optimizer)
    finally:
        StoreReader.view = view
    assert all(map(torch.equal, tensors, before))
    return sum(tensor.numel() for tensor in tensors), written, sum(sizes)


@pytest.mark.parametrize("expert", [1, 2])
def test_a_rank_writes_and_reads_its_own_ranges_and_no_more(folder, tmp_path, expert):
    """Two data-parallel ranks share the dense state; the experts' is shared too (EP1) or whole on each rank (EP2)."""
    parts = on_ranks(saved_and_loaded, tmp_path, folder, tmp_path / "store", expert)
    assert all(has == wrote == read for has, wrote, read in parts)
    assert max(has for has, _, _ in parts) < 0.6 * sum(has for has, _, _ in parts)
    moments = [tensor for key, tensor in StoreReader(tmp_path / "store").tensors.items() if key.startswith("exp_avg/")]
    assert sum(has for has, _, _ in parts) == 3 * sum(torch.Size(tensor.shape).numel() for tensor in moments)


def weights_read(rank, folder, output, expert, source):
    """Write a checkpoint, spoil the weights and load them again -> values read here, and of the whole model."""
    state, param_shards = train_state(folder, OptimizerSettings(), expert=expert, precision="bf16")
    begin_state(state.optimizer, 1)
    writer = StoreWriter(output)
    for name, shard, start, values in tensors_of_rank(param_shards, state.optimizer):
        writer.add_range(name + shard.rule.name, shard.rule.shape, shard.box, start, values)
    writer.finish()
    before = [shard.parameter.data.clone() for shard in param_shards]
    for shard in param_shards:
        shard.parameter.data.fill_(7.0)
    reader = FolderReader if source == "folder" else StoreReader
    sizes, view = [], reader.view

    def counted(self, tensor, box=None):
        sizes.append(1)
        values = view(self, tensor, box)
        sizes[-1] = values.numel()
        return values

    reader.view = counted
    try:
        load_weights(state.chunks, Architecture.from_folder(folder), folder, output if source == "checkpoint" else None)
    finally:
        reader.view = view
    assert all(torch.equal(shard.parameter.data, values) for shard, values in zip(param_shards, before, strict=True))
    rules = {shard.rule.name: shard.rule.size for shard in param_shards}
    return sum(sizes), sum(rules.values())


@pytest.mark.parametrize("source", ["checkpoint", "folder"])
@pytest.mark.parametrize("expert", [1, 2])
def test_each_weight_is_read_once_for_all_ranks_that_hold_it(folder, tmp_path, expert, source):
    """And the ranks read about as much each, of a checkpoint and of a Hugging Face folder."""
    (first, whole), (second, _) = on_ranks(weights_read, tmp_path, folder, tmp_path / "store", expert, source)
    assert first + second == whole
    assert max(first, second) <= 0.55 * whole
