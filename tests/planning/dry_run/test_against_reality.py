"""Small steps executed twice, with values on the CPU and without: memory and FLOPs of both.

The peak of tensor storage is measured by an account of every operator's results. PyTorch's own allocator tells it too,
of one rank: what gloo's threads free is not in its account.
"""

import json
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import warm

from . import small_step

TOLERANCE = 0.05


@dataclass(frozen=True)
class Run:
    overrides: tuple[str, ...] = ()
    ranks: int = 1
    kind: str = "sft"
    experts: bool = False
    fast: bool = False


TP, PP, VPP, EP = (
    f"parallel.{kind}_model_parallel_size=2" for kind in ("tensor", "pipeline", "virtual_pipeline", "expert")
)
LORA, MODULES = ("model.adapters.rank=8",), "model.adapters.modules="
NONE, FULL, SELECTIVE = (f"model.recompute={kind}" for kind in ("none", "full", "selective"))

RUNS = {
    "no recompute": Run((NONE,)),
    "selective recompute": Run((SELECTIVE,)),
    "full recompute": Run((FULL,), fast=True),
    "norms and feed-forward recomputed": Run((SELECTIVE, "model.recompute_modules=[layernorm,mlp]")),
    "three layers recomputed": Run((FULL, "model.recompute_method=block", "model.recompute_num_layers=3")),
    "experts": Run((NONE,), experts=True, fast=True),
    "experts, full recompute": Run((FULL,), experts=True),
    "TP2": Run((NONE, TP), 2),
    "PP2": Run((NONE, PP), 2),
    "PP2, delayed weight gradients": Run((NONE, PP, "parallel.delayed_weight_gradients=[0,1]"), 2),
    "PP2, two chunks each": Run((NONE, PP, VPP), 2),
    "EP2": Run((NONE, EP), 2, experts=True),
    "DPO, stored reference": Run((NONE, "reference.mode=stored"), kind="dpo"),
    "DPO, resident reference": Run((NONE, "reference.mode=resident"), kind="dpo"),
    "adapters": Run((NONE, *LORA), fast=True),
    "adapters, full recompute": Run((FULL, *LORA)),
    "adapters, norms and feed-forward recomputed": Run((SELECTIVE, "model.recompute_modules=[layernorm,mlp]", *LORA)),
    "adapters, DoRA and vision tower": Run((NONE, *LORA, "model.adapters.dora=true", f'{MODULES}[visual.*,"*_proj"]')),
    "adapters, experts": Run((NONE, *LORA), experts=True),
    "adapters, shared by experts, EP2": Run((NONE, EP, *LORA, "model.adapters.experts=shared"), 2, experts=True),
    "adapters, TP2": Run((NONE, TP, *LORA), 2),
    "adapters, PP2": Run((NONE, PP, *LORA), 2),
    "adapters on the last stage alone, PP2": Run((NONE, PP, *LORA, f"{MODULES}[layers.6.*,layers.7.*]"), 2, fast=True),
    "adapters, DPO": Run((NONE, *LORA), kind="dpo"),
}


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """name of a run -> what its ranks saw with values, and without."""

    @cache
    def execute(name: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        run, folder = RUNS[name], tmp_path_factory.mktemp("run")
        small_step.write_config(folder / "model", experts=run.experts)
        spec = folder / "spec.json"
        spec.write_text(
            json.dumps({"model": str(folder / "model"), "kind": run.kind, "overrides": run.overrides}), encoding="utf-8"
        )
        for mode in ("cpu", "dry"):
            warm.run_ranks([sys.executable, "-m", small_step.__name__, mode, spec], run.ranks, timeout=1500)
        return [(_read(folder / f"cpu-{rank}.json"), _read(folder / f"dry-{rank}.json")) for rank in range(run.ranks)]

    return execute


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))


every_run = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if run.fast else pytest.mark.slow) for name, run in RUNS.items()]
)


@every_run
def test_the_peak_of_each_rank_is_the_measured_one(executed, name):
    for rank, (real, dry) in enumerate(executed(name)):
        print(f"{name}, rank {rank}: measured {real['peak'] / 2**20:.1f} MiB, dry {dry['peak'] / 2**20:.1f}", end="")
        print(f" ({100 * dry['peak'] / real['peak'] - 100:+.1f} %); allocator {real['allocated'] / 2**20:.1f}")
        assert dry["peak"] == pytest.approx(real["peak"], rel=TOLERANCE)
        assert dry["peak"] > 1.1 * dry["held"], "a step needs more than what is held between steps"
        if RUNS[name].ranks == 1:
            assert dry["peak"] == pytest.approx(real["allocated"], rel=TOLERANCE)


@every_run
def test_a_checkpoint_takes_what_is_held_and_writes_as_much_as_a_real_one(executed, name):
    """Before the steps the optimizer's first update takes the most."""
    seen = executed(name)
    assert any(dry["written"] for _, dry in seen)
    for real, dry in seen:
        if not dry["written"]:  # a stage without adapters
            assert not real["written"] and dry["held"] == dry["checkpoint"] <= dry["start"]
            continue
        assert dry["written"] == real["written"]
        assert dry["held"] <= dry["checkpoint"] < 1.01 * dry["held"] + dry["reference"]
        assert dry["start"] > dry["checkpoint"]


def experts_weight_gradients(executed, name, rank):
    """FLOPs: of three products, or of four where the first is made again. Beside adapters the experts' own weights have
    two, those of the same run without adapters."""
    grouped = executed(name)[rank][1]["flops"].get("_grouped_mm", 0)
    if "experts" in name and "adapters" in name:
        whole = executed("EP2" if "EP2" in name else "experts")[rank][1]["flops"]["_grouped_mm"]
        return (grouped - whole * 2 // 3) // 3
    return grouped // (4 if "model.recompute=full" in RUNS[name].overrides else 3)


@every_run
def test_products_have_as_many_flops_as_pytorchs_counter_says(executed, name):
    """Those of PyTorch's own products. Others, which it does not know by their fused names, see `test_flops`."""
    for rank, (real, dry) in enumerate(executed(name)):
        # Small experts' weight gradients are one grouped product on a GPU, and on a CPU one for each expert.
        apart = {"mm": 0, "addmm": experts_weight_gradients(executed, name, rank)}
        for product in ("mm", "addmm"):
            assert dry["flops"].get(product, 0) + apart[product] == real["flops"].get(f"aten.{product}", 0)
        assert dry["flops"]["mm"] > 0
