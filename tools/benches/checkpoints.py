"""For how long training stands still for a checkpoint that is written beside it, against one that it waits for; and how
much slower the steps are meanwhile. `tools/bench.py checkpoint` is the command."""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from editcaption_mega import platform
from editcaption_mega.data.synthetic import WorldSettings, corpus_texts
from editcaption_mega.data.text.side_files import SideFiles
from editcaption_mega.model.random_folder import SmallModel, train_tokenizer, write_random_folder
from editcaption_mega.settings import CheckpointSettings
from editcaption_mega.training.checkpoint import CheckpointFolder, CheckpointSaver, stored_ranges

from .sft_steps import OurSteps, write_pairs

BYTES_PER_LAYER = 12 * 12_100_000  # fp32 weights and two moments


def size_of(gigabytes: float) -> SmallModel:
    """A dense model whose checkpoint has about so many gigabytes."""
    return SmallModel(
        hidden_size=1024, num_layers=max(1, round(gigabytes * 1e9 / BYTES_PER_LAYER)), num_heads=8, num_kv_heads=4,
        head_dim=128, intermediate_size=2944, experts=0,
    )  # fmt: skip


def measure(gigabytes: float, repeats: int, say: Callable[[str], None]) -> dict:
    """Seconds of both ways, by turns, and of steps alone and beside a checkpoint that is being written."""
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        root = Path(temporary)
        tokenizer = train_tokenizer(corpus_texts(WorldSettings(), 1, 300), 500)
        write_random_folder(root / "model", tokenizer, size_of(gigabytes))
        write_pairs(root / "pairs", 1)
        platform.initialize(platform.Layout(), seed=1)
        try:
            return _measure(root, repeats, say)
        finally:
            platform.destroy()


def _measure(root: Path, repeats: int, say: Callable[[str], None]) -> dict:
    step = OurSteps(root, 1)
    shards = step.shards
    savers = {
        way: CheckpointSaver(
            CheckpointSettings(asynchronous=way == "beside", keep=1), shards, step.state.optimizer,
            published=0, say=lambda line: None,
        )
        for way in ("standing", "beside")
    }  # fmt: skip
    side_files, stands, alone, beside, written = SideFiles.read(root / "model"), {w: [] for w in savers}, [], [], []
    _seconds(step)  # the optimizer has its state then
    savers["beside"].prepare()
    savers["beside"].settle()  # in a job it is made beside a step
    size = sum(stored.values.nbytes for stored in stored_ranges(shards, step.state.optimizer))
    for number in range(1, repeats + 1):
        say(f"turn {number} of {repeats}")
        alone.append(_seconds(step))
        for way, saver in savers.items():
            folder = CheckpointFolder(root / way, {"step": number, "updates": number}, side_files, {})
            stands[way].append(_seconds(lambda saver=saver, folder=folder: saver.begin(folder, required=True)))
        began = time.monotonic()
        while not folder.final.exists():
            beside.append(_seconds(step))
        written.append(time.monotonic() - began)
        savers["beside"].settle()
    medians = {name: statistics.median(values) for name, values in stands.items()}
    return {
        "bytes": size, "standing_seconds": medians["standing"], "stall_seconds": medians["beside"],
        "ratio": medians["beside"] / medians["standing"], "written_in_seconds": statistics.median(written),
        "step_seconds": statistics.median(alone), "step_seconds_beside": statistics.median(beside),
    }  # fmt: skip


def _seconds(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def markdown(record: dict, machine: dict) -> str:
    return (
        f"{machine['case']}; {machine['device']}, {machine['threads']} threads, torch {machine['torch']}, median of "
        f"{machine['repeats']}\n\n"
        "| | seconds |\n|---|---|\n"
        f"| checkpoint of {record['bytes'] / 1e9:.2f} GB that training waits for | {record['standing_seconds']:.2f} |\n"
        f"| for which it stands still where it is written beside | {record['stall_seconds']:.3f} "
        f"({100 * record['ratio']:.1f} %) |\n"
        f"| until that is published, steps going on | {record['written_in_seconds']:.2f} |\n"
        f"| a step alone; while it is written | {record['step_seconds']:.2f}; {record['step_seconds_beside']:.2f} |\n"
    )
