"""The account of tensor storage: each storage once, whatever views it, until it is freed."""

import torch

from editcaption_mega.planning.dry_run.memory import BLOCK, Memory

MIB = 1 << 20


def floats(count: int) -> torch.Tensor:
    return torch.empty(count, device="meta")


def test_a_view_adds_nothing_and_memory_is_free_when_the_last_view_is():
    memory = Memory()
    tensor = floats(MIB)
    assert memory.add(tensor, "weights")
    view = tensor.view(2, -1)[1]
    assert not memory.add(view, "activations")
    assert memory.now == 4 * MIB and memory.by_kind["activations"] == 0
    del tensor
    assert memory.now == 4 * MIB
    del view
    assert memory.now == 0 == memory.by_kind["weights"]


def test_sizes_are_those_of_the_allocators_blocks():
    memory = Memory()
    tensor = floats(1)
    memory.add(tensor, "activations")
    assert memory.now == BLOCK


def test_tensors_of_the_host_are_not_counted():
    memory = Memory()
    assert not memory.add(torch.empty(MIB), "activations")
    assert memory.now == 0


def test_the_peak_stays_with_what_it_was_made_of():
    memory = Memory()
    held = floats(MIB)
    memory.add(held, "weights")
    memory.start()
    temporary = floats(2 * MIB)
    memory.add(temporary, "attention")
    assert memory.is_peak(workspace=MIB)
    del temporary
    small = floats(1)
    memory.add(small, "attention")
    assert not memory.is_peak()
    assert memory.peak.total == 13 * MIB
    assert memory.peak.by_kind == {"weights": 4 * MIB, "attention": 8 * MIB, "workspace": MIB}


def test_a_start_forgets_the_peak_of_before():
    memory = Memory()
    temporary = floats(MIB)
    memory.add(temporary, "attention")
    memory.is_peak()
    del temporary
    memory.start()
    assert memory.peak.total == 0


def test_memory_that_gets_another_name_keeps_its_size():
    memory = Memory()
    tensor, new = floats(MIB), floats(MIB)
    memory.add(tensor, "activations")
    memory.relabel([tensor, new], "gradients")
    assert memory.by_kind == {"activations": 0, "gradients": 8 * MIB}
    assert memory.now == 8 * MIB
    del tensor
    assert memory.by_kind["gradients"] == 4 * MIB


def test_the_timeline_has_the_large_changes():
    memory = Memory()
    memory.start()
    small = floats(MIB)
    memory.add(small, "activations")
    memory.mark(1)
    large = floats(8 * MIB)
    memory.add(large, "activations")
    memory.mark(2)
    del large
    memory.mark(3)
    points = [(operator, kinds.get("activations", 0)) for operator, kinds in memory.timeline]
    assert points == [(0, 0), (2, 36 * MIB), (3, 4 * MIB)]
