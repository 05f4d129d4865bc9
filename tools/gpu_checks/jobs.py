"""Whole jobs through the launch scripts: SFT of all weights and of adapters, and DPO, of a tiny MoE model from the same
weights and pairs, on this device and on the CPU."""

import json
import math
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from editcaption_mega.data.images.decode import encode_png
from editcaption_mega.data.shards.reader import ShardWriter
from editcaption_mega.data.synthetic import WorldSettings, corpus_texts, render_pair
from editcaption_mega.model.random_folder import SmallModel, train_tokenizer, write_random_folder

from .figures import Figure, Figures, Machine

ROOT = Path(__file__).parents[2]
# Sizes that flash attention and the grouped products take; heads of 72 are those of the released vision towers.
SIZE = SmallModel(
    hidden_size=256, num_layers=4, num_heads=4, num_kv_heads=2, head_dim=64, experts=8, vision_hidden_size=144,
    vision_heads=2, expert_intermediate_size=64,
)  # fmt: skip
STEPS, BATCH = 3, 8
MOST = 1e-2  # bf16 keeps 8 bits


class Job(NamedTuple):
    script: str
    shards: str
    learning_rate: float
    truth: str  # precision on the CPU
    settings: tuple[str, ...] = ()


# A preference loss is a small difference: the rounding of bf16 weights alone moves it by some per cent.
JOBS = {
    "SFT": Job("pretrain_sft.sh", "captioned", 1e-3, "fp32"),
    "SFT of adapters": Job("pretrain_sft.sh", "captioned", 1e-3, "fp32", ("model.adapters.rank=8",)),
    "DPO": Job("train_dpo.sh", "preferences", 1e-5, "bf16"),
}


def run(machine: Machine) -> Figures:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        _write(root)
        runs = [(kind, where) for kind in JOBS for where in ("device", "cpu")]
        with ThreadPoolExecutor(len(runs) if machine.on_gpu else 1) as pool:
            lines = dict(zip(runs, pool.map(lambda run: _losses(root, machine, *run), runs), strict=True))
    for kind in JOBS:
        ours, truth = lines[kind, "device"], lines[kind, "cpu"]
        worst = max(abs(a - b) / abs(b) for a, b in zip(ours, truth, strict=True))
        note = f"losses {' '.join(f'{loss:.5f}' for loss in ours)}; CPU {' '.join(f'{loss:.5f}' for loss in truth)}"
        yield Figure(
            f"{kind} job of a tiny MoE, bf16 against {JOBS[kind].truth} on the CPU", worst, "", note, most=MOST
        )
    first = abs(lines["DPO", "device"][0] - math.log(2))
    yield Figure("first DPO loss against ln 2", first, "", "policy and reference are the same model", most=1e-3)


def _write(root: Path) -> None:
    world = WorldSettings()
    tokenizer = train_tokenizer(corpus_texts(world, seed=1, count=300), vocabulary=640)
    write_random_folder(root / "model", tokenizer, SIZE)
    with ShardWriter(root / "captioned") as captioned, ShardWriter(root / "preferences") as preferences:
        for i in range(2 * BATCH):
            pair, other = render_pair(world, 1, i), render_pair(world, 2, i)
            pictures = (encode_png(pair.source), "png", encode_png(pair.target), "png")
            captioned.add(pair.pair, *pictures)
            answers = {"chosen": pair.pair.instruction, "rejected": other.pair.instruction, "failure_modes": ["detail"]}
            preferences.add(pair.pair.model_copy(update=answers), *pictures)
    (root / "job.yaml").write_text("training: {}\n", encoding="utf-8")


def _losses(root: Path, machine: Machine, kind: str, where: str) -> list[float]:
    """Train -> the loss of each step. Raises RuntimeError with what the job said."""
    job, name = JOBS[kind], f"{kind.replace(' ', '-')}-{where}"
    output = root / name
    settings = {
        "model.folder": root / "model",
        "data.shards": f"[{root / job.shards}]",
        "data.sequence_length": 2048,
        "data.min_pixels": 1024,
        "training.output": output,
        "training.steps": STEPS,
        "training.global_batch_size": BATCH,
        "training.precision": "bf16" if where == "device" else job.truth,
        "optimizer.learning_rate": job.learning_rate,
    }
    command = [sys.executable, ROOT / "launch" / job.script, root / "job.yaml"]
    command += [*(f"{key}={value}" for key, value in settings.items()), *job.settings]
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    if where == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    done = subprocess.run(
        list(map(str, command)),
        env=environment,
        capture_output=True,
        text=True,
        timeout=machine.size(150, None),
        check=False,
    )
    (machine.output / f"job-{name}.txt").write_text(done.stdout + done.stderr)
    if done.returncode:
        raise RuntimeError(f"the {kind} job on {where} ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    metrics = (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["loss"] for line in metrics]
