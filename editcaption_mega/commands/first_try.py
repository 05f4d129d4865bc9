"""`editcaption try`: a tiny random model learns ten pairs: every step of a first fine-tuning, in a minute."""

import json
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from editcaption_mega import cli
from editcaption_mega.settings import SmallModel

MARK = "try.json"  # of a folder that this command made
PAIRS = 10
SIZE = SmallModel(num_layers=2, experts=0, vision_depth=1, deepstack_layers=(0,))
TRAINING = {
    "data.sequence_length": 1024,
    "optimizer.learning_rate": 3e-3,
    "optimizer.warmup_steps": 5,
    "checkpoint.every": 10_000,
    "training.global_batch_size": PAIRS,
    "training.precision": "fp32",
    "training.log_every": 20,
}
NEXT = """
Next, with the files of this try:
  editcaption caption {out}/pairs/{source} {out}/pairs/{target} --model {out}/model_sft
With a Qwen3-VL and pairs of your own, listed as in {out}/pairs/pairs.jsonl:
  editcaption shards --format jsonl --input pairs.jsonl --output data/sft
  editcaption train-sft sft_qwen3_vl_2b model.folder=models/Qwen3-VL-2B-Instruct data.shards=data/sft \\
      training.output=runs/sft
  editcaption convert megatron-to-hf --checkpoint runs/sft --output models/sft"""


def main(argv: Sequence[str]) -> int:
    parser = cli.argument_parser(
        "Render ten pairs of pictures, make a tiny random Qwen3-VL, fine-tune it until it knows them by heart, convert "
        "it, and have it caption them: every step of a first run on your own pairs, in under a minute on a CPU.",
        "editcaption try --output runs/try",
    )
    parser.add_argument("--output", type=Path, default=Path("runs/try"), metavar="DIR", help="default runs/try")
    parser.add_argument("--steps", type=cli.positive, default=100, metavar="N", help="of training (default 100)")
    arguments = parser.parse_args(argv)
    out: Path = arguments.output
    if out.exists() and not (out / MARK).is_file():
        raise cli.ArgumentError(f"--output {out} holds something else than an earlier try: choose another folder")
    began = time.monotonic()
    shutil.rmtree(out, ignore_errors=True)
    (out / "pairs").mkdir(parents=True)
    (out / MARK).write_text("{}\n", encoding="utf-8")
    rows = write_pairs(out / "pairs")
    say(began, f"{PAIRS} pairs of pictures with instructions: {out}/pairs")
    make_shards(out)
    make_model(out / "model")
    say(began, f"a random Qwen3-VL: {out}/model")
    train(out, arguments.steps)
    say(began, f"fine-tuned, and converted for transformers: {out}/model_sft")
    right = show_captions(out, rows)
    say(began, f"{right} of {PAIRS} word for word")
    print(NEXT.format(out=out, source=rows[0]["source"], target=rows[0]["target"]))
    return 0


def say(began: float, text: str) -> None:
    print(f"[{time.monotonic() - began:4.0f} s] {text}", flush=True)


def write_pairs(folder: Path) -> list[dict[str, Any]]:
    """Rendered pairs as files and a JSONL, as a user's own would be -> its rows."""
    from editcaption_mega.data.images.decode import encode_png
    from editcaption_mega.data.synthetic import WorldSettings, render_pair

    rows = []
    for index in range(PAIRS):
        rendered = render_pair(WorldSettings(), 0, index)
        names = {"source": f"{index:02d}_before.png", "target": f"{index:02d}_after.png"}
        for name, picture in ((names["source"], rendered.source), (names["target"], rendered.target)):
            (folder / name).write_bytes(encode_png(picture))
        pair = rendered.pair
        kind = {"category": pair.category, "edit_type": pair.edit_type}
        rows.append({"schema": 1, "id": f"try-{index:02d}", **kind, "instruction": pair.instruction, **names})
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return rows


def make_shards(out: Path) -> None:
    from editcaption_mega.data.importers import FORMATS, ImportOptions
    from editcaption_mega.data.importers.ingest import ingest

    rows = FORMATS["jsonl"].read(str(out / "pairs/pairs.jsonl"), ImportOptions())
    ingest(rows, str(out / "shards"))


def make_model(folder: Path) -> None:
    from editcaption_mega.data.synthetic import WorldSettings, corpus_texts
    from editcaption_mega.data.text.prompt import Prompt
    from editcaption_mega.model.random_folder import write_small_folder

    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    write_small_folder(folder, SIZE, Prompt.load(), corpus_texts(WorldSettings(), seed=1, count=500))


def train(out: Path, steps: int) -> None:
    from editcaption_mega.conversion.convert import megatron_to_hf
    from editcaption_mega.interface import train_sft

    result = train_sft(
        None,
        {
            **TRAINING,
            "model.folder": out / "model",
            "data.shards": [str(out / "shards")],
            "training.output": out / "run",
            "training.steps": steps,
        },
    )
    assert result.checkpoint is not None, "a job that went through leaves a checkpoint"
    megatron_to_hf(result.checkpoint, out / "model_sft")


def show_captions(out: Path, rows: list[dict[str, Any]]) -> int:
    """What the model writes of each pair, beside what it should -> how often that is the same."""
    from editcaption_mega.inference.own_pictures import Captioner, CaptionOptions, PictureFile

    captioner = Captioner(out / "model_sft", CaptionOptions(max_tokens=64))
    right = 0
    for row in rows:
        pictures = (PictureFile.read(out / "pairs" / row[side]) for side in ("source", "target"))
        written = captioner.answer(*pictures).text
        right += written == row["instruction"]
        print(f"  reference  {row['instruction']}\n  written    {written or '(nothing)'}")
    return right
