"""The jobs of configs/layouts.yaml, one of each model, number of GPUs, memory and stage, and the page that shows them.

    python -m tests.planning.gpu_counts --write docs/gpu_counts.md

What is listed is chosen by `choose_layouts`.
"""

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from editcaption_mega.model.released import architecture_to_plan
from editcaption_mega.planning.layouts.modes import PlannedJob
from editcaption_mega.planning.timing.hardware import load_hardware
from editcaption_mega.planning.workload import UNIFORM
from editcaption_mega.settings import load_job
from tests.helpers import ROOT

LAYOUTS = ROOT / "configs" / "layouts.yaml"
MODELS = ("2b", "4b", "8b", "30b_a3b", "32b", "235b_a22b")
GPUS = (1, 8, 16, 32, 64, 128, 256)
HARDWARE = {80: "h100", 141: "h200"}
KINDS = {"sft": "SFT", "dpo": "DPO", "sft-lora": "SFT, LoRA", "dpo-lora": "DPO, LoRA"}
LORA_RANK, LORA_RATE = 16, 10  # of adapters; times the learning rate of the weights themselves
FIELDS = ("add", "seconds", "free", "why")
HEAD = """\
# Layouts for other numbers of GPUs

Written by `make configurations` from [layouts.yaml](../configs/layouts.yaml): settings to add to a shipped
configuration, for GPUs of 80 GB (H100) and of 141 GB (H200). Each is the best of `--mode search` on that many GPUs,
with 8 % of the memory free; the configuration's own layout stands where the best is not 2 % faster. A layout for DPO
is searched for among the groups of ranks that are best for SFT. Figures are estimates ([planning.md](planning.md)),
of a dry run of each. Percentages in a reason are how much longer another layout took by fit when the search was made:
of 8B and 32B on 16 GPUs and more with today's code, of others before tensor-parallel ranks computed whole pictures
and products. Layouts whose reason begins with "by hand" were compared with a few others by fit, and not searched for.
What is not here was not searched for yet: `tools/plan.py CONFIG --gpus N --mode search` does it in minutes.

**Batch and learning rate.** A step has at least one pair per GPU. Up to as many GPUs as the configuration's batch has
pairs, its batch and learning rate stay; beyond, the batch has as many pairs as there are GPUs, and the learning rate
grows with the square root of the batch, the rule for Adam
([Malladi et al., 2022](https://arxiv.org/abs/2205.10330)). Both are among the settings to add. No model of these sizes
was trained here to confirm it: see that a run's first hundred steps are as steady as with the smaller batch.

**LoRA** ([lora.md](lora.md)): adapters of rank 16 on all linear layers of the decoder, one for each expert, at ten
times the learning rate of full training, a common rule that no run here has confirmed. The DPO jobs take as
reference the model with its adapters off, one more forward pass in each step. Their `model.folder` names weights
that have SFT's adapters in them, and `model.checkpoint` is left empty then.

"""
LAYOUTS_HEAD = """\
# Written by `python -m tests.planning.choose_layouts`: settings to add to KIND_qwen3_vl_MODEL.yaml on GPUS x GB.
# sft-lora and dpo-lora are jobs of sft and dpo that train adapters alone (docs/lora.md).
# docs/gpu_counts.md shows them and says what the figures are.
"""
COLUMNS = ("GPUs", "job", "settings to add", "step s", "pairs/s", "free", "why")


@dataclass(frozen=True)
class Listed:
    """A job and its layout. memory: of a GPU, a key of HARDWARE; add: key=value, separated by blanks, None where
    nothing fits; seconds of a step and the free share of the memory: of the dry run."""

    model: str
    gpus: int
    memory: int
    kind: str
    add: str | None = None
    seconds: float = 0.0
    free: float = 0.0
    why: str = ""

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.model}-{self.gpus}x{self.memory}"

    @property
    def config(self) -> Path:
        return ROOT / f"configs/{self.kind.partition('-')[0]}_qwen3_vl_{self.model}.yaml"

    @property
    def lora(self) -> bool:
        return self.kind.endswith("-lora")

    def job(self, changes: Sequence[str] | None = None) -> PlannedJob:
        """The job with these changes, by default the listed ones."""
        settings = load_job(self.config, (self.add or "").split() if changes is None else list(changes))
        hardware = load_hardware(HARDWARE[self.memory])
        architecture = architecture_to_plan(settings.model.folder)
        return PlannedJob(settings, architecture, UNIFORM, self.gpus, hardware, hardware.memory_gib)


def job_changes(listed: Listed) -> list[str]:
    """What the job has instead of the configuration's, whatever its layout.

    Batch and learning rate where the GPUs are more than the batch has pairs: one pair each, the rate by its root.
    LoRA: the adapters, their learning rate, and a reference that needs no file."""
    shipped = load_job(listed.config)
    pairs, optimizer = shipped.training.global_batch_size, shipped.optimizer
    factor, changes = 1.0, []
    if listed.gpus > pairs:
        factor = math.sqrt(listed.gpus / pairs)
        changes.append(f"training.global_batch_size={listed.gpus}")
    if listed.lora:
        factor *= LORA_RATE
        changes.append(f"model.adapters.rank={LORA_RANK}")
        if shipped.parallel.delayed_weight_gradients:  # there are none of weights
            changes.append("parallel.delayed_weight_gradients=null")
        if listed.kind.startswith("dpo"):
            changes.append("reference.mode=adapters_off")
    if factor == 1:
        return changes
    rates = {name: factor * getattr(optimizer, name) for name in ("learning_rate", "min_learning_rate")}
    return changes + [f"optimizer.{name}={rate:.3g}" for name, rate in rates.items()]


def listed() -> Iterator[Listed]:
    """In the order of the page: models as they grow, each on GPUs of 80 GB first."""
    entries = yaml.safe_load(LAYOUTS.read_text(encoding="utf-8"))
    for model in MODELS:
        for memory in HARDWARE:
            for gpus in GPUS:
                for kind, values in entries.get(model, {}).get(f"{gpus}x{memory}", {}).items():
                    yield Listed(model, gpus, memory, kind, **values)


def layouts_text(entries: Sequence[Listed]) -> str:
    """The file of these layouts, in the order of `listed`."""
    models: dict[str, dict[str, dict[str, object]]] = {}
    for entry in sorted(entries, key=lambda e: (MODELS.index(e.model), e.memory, e.gpus, list(KINDS).index(e.kind))):
        values = {key: value for key, value in asdict(entry).items() if key in FIELDS}
        models.setdefault(entry.model, {}).setdefault(f"{entry.gpus}x{entry.memory}", {})[entry.kind] = values
    return LAYOUTS_HEAD + yaml.safe_dump(models, sort_keys=False, width=10**6)


def page(entries: Sequence[Listed]) -> str:
    lines = []
    for model in MODELS:
        own = [entry for entry in entries if entry.model == model]
        if own:
            lines += [f"## {model}", "", f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
            lines += [line_of(entry) for entry in own] + [""]
    return HEAD + "\n".join(lines).rstrip() + "\n"


def line_of(entry: Listed) -> str:
    cells = [f"{entry.gpus} of {entry.memory} GB", KINDS[entry.kind]]
    if entry.add is None:
        cells += ["**does not fit**", "", "", ""]
    else:
        pairs = entry.job().settings.training.global_batch_size
        cells += [f"`{entry.add}`" if entry.add else "none", f"{entry.seconds:.2f}", f"{pairs / entry.seconds:.1f}"]
        cells.append(f"{100 * entry.free:.0f} %")
    return f"| {' | '.join([*cells, entry.why])} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, help="file for the page; without it the page is printed")
    arguments = parser.parse_args()
    text = page(list(listed()))
    if arguments.write:
        arguments.write.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
