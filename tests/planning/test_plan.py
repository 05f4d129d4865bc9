"""What cannot be planned is refused in one sentence before any rank is executed."""

import pytest

from editcaption_mega.model.released import architecture_to_plan
from editcaption_mega.planning import plan
from editcaption_mega.planning.timing.hardware import load_hardware
from editcaption_mega.planning.workload import UNIFORM
from editcaption_mega.settings import load_job
from tests.helpers import ROOT


@pytest.mark.parametrize(
    ("override", "gpus", "sentence"),
    [
        ("data.sequence_length=2000", 8, "takes 2671 tokens, more than data.sequence_length=2000"),
        ("training.global_batch_size=4", 8, "4 samples in a step cannot feed 8 rows at once"),
        ("parallel.tensor_model_parallel_size=3", 6, "does not divide the 8 kv heads"),
        ("training.global_batch_size=1000000000", 8, "global_batch_size=1000000000 is more than the 1000000 that"),
        ("data.max_pixels=100000000000", 8, "pictures of a sample take [0-9]+ tokens, more than"),
        ("model.adapters.rank=5000", 8, "model.adapters.rank=5000 is more than the"),
        ("parallel.tensor_model_parallel_size=4", 6, "6 ranks are not a multiple"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_executed(override, gpus, sentence, monkeypatch):
    monkeypatch.setattr(plan, "execute_roles", lambda *args, **kwargs: pytest.fail("a rank was executed"))
    settings = load_job(ROOT / "configs/sft_qwen3_vl_2b.yaml", [override])
    architecture = architecture_to_plan("Qwen3-VL-2B")
    with pytest.raises(ValueError, match=sentence):
        plan.make_plan(settings, architecture, UNIFORM, gpus, load_hardware("h100"))
