"""What adapters that a layout has trained are outside: in the weights, and as a PEFT folder."""

from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from editcaption_mega.conversion.convert import export_adapter, merge_adapter
from editcaption_mega.conversion.peft_folder import WEIGHTS_FILE
from editcaption_mega.data.text.side_files import ADAPTER_CONFIG
from tests.helpers import tiny

from . import worker


def measure(run: Path, base: Path, reference: Path, output: Path) -> dict:
    """run: whose newest checkpoint has the adapters. reference: file of the logits of `peft` after the same training.

    -> largest differences of logits with the adapters in the weights, and loaded by `peft`; and whether a PEFT folder
    that is read is written again bit for bit."""
    expected = load_file(reference)
    merge_adapter(run, output / "merged")
    export_adapter(run, output / "peft")
    export_adapter(output / "peft", output / "again", base=base)
    files = [
        [(output / name / file).read_bytes() for file in (ADAPTER_CONFIG, WEIGHTS_FILE)] for name in ("peft", "again")
    ]
    loaded = PeftModel.from_pretrained(transformers_model(base), output / "peft")
    return {
        "merged": largest_difference(transformers_model(output / "merged"), expected),
        "loaded": largest_difference(loaded.eval(), expected),
        "round_trip": files[0] == files[1],
    }


def transformers_model(folder: Path):
    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()


def largest_difference(model, expected: dict[str, torch.Tensor]) -> float:
    """Of any logit of the first step's samples."""
    worst = 0.0
    with torch.no_grad():
        for sample in worker.step_samples(0):
            logits = model(**tiny.hf_inputs(sample), use_cache=False).logits[0]
            worst = max(worst, (logits - expected[sample.id]).abs().max().item())
    return worst
