"""What a step without values is told instead of them."""

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from editcaption_mega.planning.dry_run.fakes import expert_counts
from tests.helpers import warm
from tests.planning.dry_run import small_step


@given(
    tokens=st.integers(0, 100_000),
    ranks=st.sampled_from([1, 2, 8]),
    per_rank=st.integers(1, 16),
    imbalance=st.floats(1.0, 100.0),
)
def test_every_token_has_its_experts(tokens, ranks, per_rank, imbalance):
    for rank in {0, ranks - 1}:
        counts = expert_counts(tokens, ranks * per_rank, ranks, rank, imbalance)
        assert counts.sum() == tokens and (counts >= 0).all()
        share = counts.reshape(ranks, -1).sum(1)
        imbalance = min(imbalance, ranks)  # one rank that gets all
        expected = np.full(ranks, tokens * (ranks - imbalance) / (ranks - 1) / ranks if ranks > 1 else tokens)
        expected[rank] = tokens * imbalance / ranks if ranks > 1 else tokens
        assert np.abs(share - expected).max() <= per_rank  # what rounding moves


def test_balanced_experts_differ_by_one_token_at_most():
    counts = expert_counts(1003, 8, 4, 2, 1.0)
    assert counts.max() - counts.min() <= 1


def test_the_fullest_rank_is_this_one():
    share = expert_counts(8000, 16, 4, 1, 1.5).reshape(4, -1).sum(1)
    assert share.tolist() == pytest.approx([1667, 3000, 1667, 1666], abs=4)


TENSORS_OF_VALUES = """
import torch
from editcaption_mega import platform
from editcaption_mega.planning.dry_run import fakes
from editcaption_mega.planning.dry_run.recorder import StepRecorder
platform.prepare(dry=True)
recorder = StepRecorder()
fakes._tensors_of_tensors(recorder)
with recorder:
    norms = [torch.empty((), device="meta") for _ in range(2)]
    recorder.start()
    on_host = torch.tensor([norms])
    print(dict((sync.what, count) for sync, count in recorder.host_syncs.items()), on_host.tolist())
    recorder.host_syncs.clear()
    torch.tensor([1, 2], device="cuda")
    torch.as_tensor(2.0, device="meta")
    print([sync.what for sync in recorder.host_syncs])
    recorder.host_syncs.clear()
    torch.tensor([1, 2])
    torch.as_tensor(norms[0], device="meta")
    print([sync.what for sync in recorder.host_syncs])
"""


def test_a_tensor_made_of_values_is_a_wait():
    done = warm.run([sys.executable, "-c", TENSORS_OF_VALUES])
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "{'item': 2} [[1.0, 1.0]]",
        "['torch.tensor on the device', 'torch.as_tensor on the device']",
        "[]",
    ]


BESIDE = """
import sys
from editcaption_mega.planning.dry_run.rank_step import execute_step, join_alone
from editcaption_mega.model import Architecture
from tests.planning.dry_run import small_step
settings = small_step.settings_of({"model": sys.argv[1], "kind": "sft", "overrides": []})
join_alone(0, 2, settings)
record = execute_step(settings, Architecture.from_folder(settings.model.folder), small_step.step_of(settings), None)
for phase in record.phases:
    seen = [(step.kind, step.handle) for step in phase.steps if step.handle and step.kind != "copy"]
    if phase.kind != "step" or seen:
        print(phase, seen)
"""


def test_communication_of_data_parallel_ranks_begins_and_is_waited_for_in_its_passes(tmp_path):
    """The tiny model is one bucket: gathered before the first pass, which waits for it; reduced by the last one."""
    small_step.write_config(tmp_path / "model", experts=False)
    done = warm.run([sys.executable, "-c", BESIDE, tmp_path / "model"])
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "step [('all_gather', 1)]",
        "forward 0 of chunk 0 [('wait', 1)]",
        "backward 0 of chunk 0 []",
        "forward 1 of chunk 0 []",
        "backward 1 of chunk 0 [('reduce_scatter', 2)]",
        "step [('wait', 2), ('all_gather', 3)]",
    ]


WITHIN = """
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore
from editcaption_mega import platform
from editcaption_mega.planning.dry_run import fakes
from editcaption_mega.planning.dry_run.recorder import StepRecorder
platform.prepare(dry=True)
dist.init_process_group("cpu:fake,meta:fake", rank=0, world_size=4, store=FakeStore())
recorder = StepRecorder()
fakes._within(recorder)
with recorder:
    part, whole = torch.empty(2, 3, device="meta"), torch.empty(8, 3, device="meta")
    recorder.start()
    works = [dist.all_gather_into_tensor(whole, part, async_op=True) for _ in range(2)]
    part + 1
    for work in works:
        work.wait()
    dist.reduce_scatter_tensor(part, whole)
    print([(step.kind, step.within) for step in recorder.phase.steps])
"""


def test_what_a_pass_communicates_beside_its_operators_begins_and_is_waited_for():
    done = warm.run([sys.executable, "-c", WITHIN])
    assert done.returncode == 0, done.stderr
    seen = [("all_gather", 1), ("all_gather", 2), ("copy", 0), ("wait", 1), ("wait", 2), ("reduce_scatter", 0)]
    assert done.stdout.strip() == str(seen)
