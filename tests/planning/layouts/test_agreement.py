"""Layouts put together from pieces need the memory and the time that their dry run shows."""

import pytest

from editcaption_mega.model.released import architecture_to_plan
from editcaption_mega.planning.layouts.fit import fit
from editcaption_mega.planning.layouts.pieces import Pieces
from editcaption_mega.planning.plan import make_plan
from editcaption_mega.planning.timing.hardware import load_hardware
from editcaption_mega.planning.workload import Workload
from editcaption_mega.settings import load_job
from tests.helpers import ROOT

MARGIN = 0.05
EXPERTS = [
    "parallel.tensor_model_parallel_size=1", "data.sequence_length=2800",
    "model.recompute=none", "model.recompute_modules=[core_attn]",
]  # fmt: skip
FOUR_STAGES = [
    "parallel.pipeline_model_parallel_size=4", "parallel.layers_per_chunk=null", "data.sequence_length=2800",
    "parallel.delayed_weight_gradients=null",
]  # fmt: skip
AT_ONCE = ["parallel.delayed_weight_gradients=null"]
LORA = ["model.adapters.rank=16"]
LORA_DPO = [*LORA, "reference.mode=adapters_off"]
LORA_TWO_STAGES = [
    *LORA, *AT_ONCE, "parallel.tensor_model_parallel_size=1", "parallel.pipeline_model_parallel_size=2",
    "parallel.layers_per_chunk=null",
]  # fmt: skip
slow = pytest.mark.slow


@pytest.mark.parametrize(
    "config, gpus, overrides",
    [
        ("sft_qwen3_vl_2b", 8, ()),
        pytest.param("sft_qwen3_vl_32b", 32, (), marks=slow),
        pytest.param("sft_qwen3_vl_32b", 32, AT_ONCE, marks=slow),
        pytest.param("sft_qwen3_vl_30b_a3b", 16, EXPERTS, marks=slow),
        pytest.param("sft_qwen3_vl_30b_a3b", 16, (), marks=slow),
        pytest.param("sft_qwen3_vl_235b_a22b", 128, FOUR_STAGES, marks=slow),
        pytest.param("sft_qwen3_vl_235b_a22b", 256, (), marks=slow),
        pytest.param("dpo_qwen3_vl_235b_a22b", 256, (), marks=slow),
        ("sft_qwen3_vl_2b", 8, LORA),
        pytest.param("dpo_qwen3_vl_2b", 8, LORA_DPO, marks=slow),
        pytest.param("sft_qwen3_vl_32b", 8, [*LORA, *AT_ONCE], marks=slow),
        pytest.param("sft_qwen3_vl_30b_a3b", 8, [*LORA, *EXPERTS], marks=slow),
        pytest.param("sft_qwen3_vl_235b_a22b", 16, LORA_TWO_STAGES, marks=slow),
    ],
)
def test_a_fit_agrees_with_the_dry_run(config, gpus, overrides):
    settings = load_job(ROOT / f"configs/{config}.yaml", overrides)
    architecture, workload, hardware = architecture_to_plan(settings.model.folder), Workload(), load_hardware("h100")
    with Pieces(settings, architecture, workload, hardware) as pieces:
        quick = fit(pieces, settings, gpus)
    plan = make_plan(settings, architecture, workload, gpus, hardware)
    for stage, memory in enumerate(quick.stages):
        records = [record for record in plan.records if record.coordinates["pipeline"] == stage]
        assert memory.peak == pytest.approx(max(record.peak.total for record in records), rel=MARGIN), f"stage {stage}"
        # With the start and the checkpoint, where they take more than the step.
        assert memory.needed == pytest.approx(max(map(plan.needed, records)), rel=MARGIN), f"stage {stage}"
    assert quick.time.seconds == pytest.approx(plan.time.seconds, rel=MARGIN)
    assert quick.time.mfu == pytest.approx(plan.time.mfu, rel=MARGIN)
    assert quick.time.mfu_vision == pytest.approx(plan.time.mfu_vision, rel=MARGIN)


def test_layers_with_different_adapters_are_not_counted_by_one():
    settings = load_job(
        ROOT / "configs/sft_qwen3_vl_2b.yaml", [*LORA, "model.adapters.modules=[layers.1?.self_attn.*_proj]"]
    )
    architecture = architecture_to_plan(settings.model.folder)
    with Pieces(settings, architecture, Workload(), load_hardware("h100")) as pieces:
        with pytest.raises(ValueError, match="gives decoder layers different adapters.*plan with --mode dry-run"):
            fit(pieces, settings, 8)
    assert not pieces.known
