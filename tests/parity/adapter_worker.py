"""Runs on every rank: training of adapters, one case after another, numbers into JSON files.

Usage: -m tests.parity.adapter_worker WORK STEPS KIND/LAYOUT/FORM [KIND/LAYOUT/FORM ...]; adapter_matrix.py starts it.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from editcaption_mega import platform
from editcaption_mega.conversion import WeightSource
from editcaption_mega.settings import AdapterSettings, OptimizerSettings
from editcaption_mega.training.adapter_state import adapter_metadata

from . import worker

FORMS = {
    # The vision tower's adapters give the first pipeline stage some where it has no layers.
    "LoRA": AdapterSettings(rank=8, alpha=16.0, modules=["self_attn.*", "mlp.*_proj", "visual.*"]),
    "router": AdapterSettings(rank=8, alpha=16.0, modules=["self_attn.[qv]_proj", "mlp.*"]),
    "rsLoRA": AdapterSettings(rank=8, alpha=8.0, rslora=True),
    "DoRA": AdapterSettings(rank=8, alpha=16.0, dora=True, modules=["self_attn.*", "mlp.[gud]*", "visual.*"]),
    "DoRA of attention": AdapterSettings(rank=8, alpha=16.0, dora=True, modules=["self_attn.*", "visual.*"]),
    "dropout": AdapterSettings(rank=8, alpha=16.0, dropout=0.3, modules=["self_attn.*", "visual.blocks.*"]),
    "DoRA and dropout": AdapterSettings(
        rank=8, alpha=8.0, rslora=True, dora=True, dropout=0.3, modules=["self_attn.*", "visual.blocks.*"]
    ),
    "upper layers": AdapterSettings(rank=8, alpha=16.0, modules=["layers.[67].*_proj"]),
    "shared": AdapterSettings(rank=8, alpha=16.0, experts="shared"),
}


class Case(worker.Case):
    """Adapters alone are trained, at a rate at which they change the loss as much as full training does. At five times
    this rate rounding decides: logits of `peft` itself then end 3e-5 to 5e-5 apart when each weight is one rounding off
    (6e-8), and 2e-6 to 3e-6 at this."""

    optimizer = OptimizerSettings(learning_rate=1e-3, warmup_steps=2, weight_decay=0.1)

    @property
    def metadata(self) -> dict:
        return adapter_metadata(self.model, {"base_weights": WeightSource(self.folder, None).digest()})


def slug_of(name: str) -> str:
    return worker.slug_of(*name.split("/")[:2]) + "-" + name.split("/")[2].replace(" ", "_")


def train(work: Path, steps: int, name: str) -> None:
    """All steps, with a checkpoint between; then the adapters, for the export."""
    kind, layout, form = name.split("/")
    slug = slug_of(name)
    case = Case(work / kind, layout, slug, steps=steps, adapters=FORMS[form])
    numbers = {"losses": case.train(0, steps // 2)}
    case.save(work / "runs" / slug, steps // 2)
    numbers["losses"] += case.train(steps // 2, steps)
    case.save(work / "runs" / slug, steps)
    for chunk in case.chunks:
        chunk.eval()
    numbers["logits"] = case.logits_error(load_file(work / f"{kind}-{form}-logits.safetensors"))
    finish(work, slug, "trained", numbers)


def resume(work: Path, steps: int, name: str, origin: str = "") -> None:
    """The second half of the steps again, from this layout's own checkpoint or that of `origin`."""
    kind, layout, form = name.split("/")
    slug, of_origin = slug_of(name), slug_of(origin or name)
    checkpoint = worker.checkpoint_in(work / "runs" / of_origin, steps)
    case = Case(work / kind, layout, f"{slug}-from-{of_origin}", steps=steps, start=checkpoint, adapters=FORMS[form])
    case.resume(checkpoint, steps // 2)
    if origin:
        case.save(work / "copies" / slug, steps // 2)
    losses = case.train(steps // 2, steps)
    finish(work, slug, "moved" if origin else "resumed", {"moved" if origin else "resumed": losses})


def finish(work: Path, slug: str, phase: str, numbers: dict) -> None:
    if platform.is_rank_zero():
        path = work / "adapter_parts" / f"{slug}.{phase}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(numbers))
    platform.destroy()


def main() -> None:
    work, steps = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    for name in sys.argv[3:]:
        kind, layout, form = name.split("/")
        worker.in_child(train, work, steps, name)
        worker.in_child(resume, work, steps, name)
        if layout != "1 rank":
            worker.in_child(resume, work, steps, name, f"{kind}/1 rank/{form}")


if __name__ == "__main__":
    main()
