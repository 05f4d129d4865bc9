"""A job on a GPU has the compiled kernels or says what to do; it never falls back to slow ones by itself."""

import pytest
import torch

from editcaption_mega.kernels import compiled
from editcaption_mega.settings import JobSettings
from editcaption_mega.training import run_sft


def test_a_job_on_a_gpu_asks_for_the_cuda_variant_unless_told_otherwise(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(compiled, "EXTENSION", None)
    settings = JobSettings()
    with pytest.raises(ValueError, match="the kernels' extension was not built.*or set model.kernels=torch"):
        run_sft(settings)
    settings.model.kernels = "torch"  # goes on to the next thing that is missing here, the model's folder
    with pytest.raises((ValueError, OSError), match="config.json"):
        run_sft(settings)
