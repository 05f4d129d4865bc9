"""How a row of samples gets to the device."""

import torch

from editcaption_mega import platform
from editcaption_mega.planning.dry_run.recorder import StepRecorder
from tests.helpers import tiny


def test_a_batch_goes_to_a_gpu_from_pinned_memory_and_the_host_does_not_wait(monkeypatch):
    platform.prepare()
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: pinned.append(self) or self)
    row = tiny.row(tiny.samples(2), 160)
    with StepRecorder() as recorder:
        recorder.start()
        moved = row.to(torch.device("meta"))
    assert not recorder.host_syncs
    assert {tensor.device.type for tensor in moved.tensors()} == {"meta"}
    assert len(pinned) == len(list(row.tensors())) > 10
    assert moved.bounds == row.bounds and moved.target_positions_host == row.target_positions_host
