"""What a finished run says: where its checkpoint is, and what comes next."""

import shlex
import sys
from pathlib import Path

from editcaption_mega.conversion.checkpoint_folders import checkpoint_folder
from editcaption_mega.data.batching.dataset import Answers
from editcaption_mega.settings import JobSettings


def next_commands(settings: JobSettings, step: int, answers: Answers) -> list[str]:
    """Lines for a run that has done all its steps. answers: what it was trained on: after instructions come
    preferences, after preferences an evaluation."""
    output = Path(settings.training.output)
    installed = Path(sys.argv[0]).name.startswith("editcaption ")
    convert = "editcaption convert megatron-to-hf" if installed else "python tools/megatron_to_hf.py"
    folder = output.with_name(f"{output.name}-hf")
    paths = {"--checkpoint": output, "--output": folder}
    arguments = " ".join(f"{option} {shlex.quote(str(path))}" for option, path in paths.items())
    lines = [
        f"the checkpoint is {checkpoint_folder(output, step)}",
        f"next, as a Hugging Face folder: {convert} {arguments}",
    ]
    if settings.model.adapters.rank:
        adapter = shlex.quote(str(output.with_name(f"{output.name}-adapter")))
        lines[-1] = lines[-1].replace("folder:", "folder with the adapters in its weights:")
        lines.append(
            f"or the adapters alone, as peft and vLLM load them: {convert} --checkpoint {shlex.quote(str(output))} "
            f"--output {adapter} --adapter"
        )
    if answers == "instruction":
        train = "editcaption train-dpo" if installed else "bash launch/train_dpo.sh"
        model = [f"model.folder={settings.model.folder}", f"model.checkpoint={output}"]
        first = "or preference training from it"
        if settings.model.adapters.rank:  # configurations name a checkpoint, which would be taken instead
            model, first = [f"model.folder={folder}", "model.checkpoint="], f"preference training goes on from {folder}"
        lines.append(f"{first}: {train} CONFIG {shlex.join(model)} data.shards=[SHARDS] training.output=DIR")
    else:
        evaluate = "editcaption evaluate" if installed else "python tools/evaluate.py"
        lines.append(f"then compare it with others: {evaluate} run CONFIG, with {folder} as the folder of a candidate")
    return lines
