"""The demo: render pairs, train a small Qwen3-VL on two ranks, convert it, let it write, and report."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from editcaption_mega import cli

ROOT = Path(__file__).resolve().parents[1]
CONFIG = "configs/sft_demo.yaml"


def main(argv):
    parser = cli.argument_parser(
        "Render image pairs, train a small random Qwen3-VL mixture of experts on them with Megatron-Core, convert it "
        "to Hugging Face form, write instructions for held-out pairs and report what it learned.",
        example="python tools/demo.py --output runs/demo",
    )
    parser.add_argument("--output", type=Path, default=ROOT / "runs/demo", metavar="DIR", help="default runs/demo")
    parser.add_argument("--pairs", type=int, default=12_000, metavar="N", help="training pairs (default 12000)")
    parser.add_argument("--held-out", type=int, default=300, metavar="N", help="pairs to describe (default 300)")
    parser.add_argument("--steps", type=int, metavar="N", help=f"optimizer steps (default: that of {CONFIG})")
    parser.add_argument("--ranks", type=int, default=2, metavar="N", help="processes that train (default 2)")
    parser.add_argument("--reduced", action="store_true", help="a quick run of every part: 600 pairs, 60 steps")
    arguments = parser.parse_args(argv)
    if arguments.reduced:
        arguments.pairs, arguments.held_out, arguments.steps = 600, 60, 60
        if arguments.output == ROOT / "runs/demo":
            arguments.output = ROOT / "runs/demo_reduced"
    demo(arguments)


def demo(arguments) -> None:
    """Each part is a tool that a user would call; what is complete from an earlier run is used again."""
    out, began = arguments.output, time.monotonic()
    wanted = {"pairs": arguments.pairs, "held_out": arguments.held_out, "steps": arguments.steps}
    start_over_if_changed(out, wanted)
    for name, count, seed in (("train", arguments.pairs, 1), ("held_out", arguments.held_out, 2)):
        if not (out / "shards" / name / "index.json").is_file():
            say(f"rendering {count:,} pairs ({name})")
            shutil.rmtree(out / "shards" / name, ignore_errors=True)
            run("tools/make_shards.py", "--format", "synthetic", "--input", ROOT / "configs/demo_world.yaml",
                "--count", count, "--seed", seed,
                "--output", out / "shards" / name)  # fmt: skip
    if not (out / "model/config.json").is_file():
        say("drawing a small random Qwen3-VL with a tokenizer of its own")
        make_model(out / "model")
    overrides = [f"model.folder={out / 'model'}", f"data.shards=[{out / 'shards/train'}]"]
    overrides += [f"data.prompt={ROOT / 'configs/demo_prompt.yaml'}", f"training.output={out / 'sft'}"]
    if arguments.steps:
        overrides += [f"training.steps={arguments.steps}"]
    say(f"training on {arguments.ranks} ranks")
    train_began = time.monotonic()
    run("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", arguments.ranks,
        "launch/pretrain_sft.sh", ROOT / CONFIG, *overrides)  # fmt: skip
    trained = time.monotonic() - train_began
    say("converting to Hugging Face form")
    shutil.rmtree(out / "sft_hf", ignore_errors=True)
    run("tools/megatron_to_hf.py", "--checkpoint", out / "sft", "--output", out / "sft_hf")
    instructions = {}
    for label, folder in (("before training", "model"), ("after training", "sft_hf")):
        say(f"writing instructions for {arguments.held_out} held-out pairs ({label})")
        instructions[label] = write(out / folder, out / "shards/held_out", out / f"instructions_{folder}.jsonl")
    report(out, instructions, trained, arguments.ranks)
    say(f"the whole demo took {(time.monotonic() - began) / 60:.1f} minutes; open {out / 'report.html'}")


def make_model(folder: Path) -> None:
    from editcaption_mega.data.chat import Prompt
    from editcaption_mega.data.synthetic import WorldSettings, corpus_texts
    from editcaption_mega.model.random_folder import SmallModel, train_tokenizer, write_random_folder

    prompt = Prompt.load(ROOT / "configs/demo_prompt.yaml")
    frame = f"system\nuser\nassistant\n{prompt.system}{prompt.before_source}{prompt.before_target}{prompt.request}"
    texts = corpus_texts(WorldSettings(), seed=1, count=2000) + [frame] * 50
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    write_random_folder(partial, train_tokenizer(texts, vocabulary=640), SmallModel())
    partial.rename(folder)


def write(folder: Path, shards: Path, output: Path) -> dict[str, str]:
    """Greedy instructions of the model in `folder` by pair id, also kept as JSONL."""
    from editcaption_mega.data.stream import open_pairs
    from editcaption_mega.inference import Generator
    from editcaption_mega.inference.instructions import write_instructions

    dataset = open_pairs(
        [str(shards)], folder, min_pixels=1024, max_pixels=1 << 20, prompt=ROOT / "configs/demo_prompt.yaml"
    )
    rows = write_instructions(Generator(folder), dataset, max_new_tokens=48, batch_size=50)
    rows = list(cli.progress(rows, len(dataset), "pairs"))
    output.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {row["id"]: row["instruction"] for row in rows}


def report(out: Path, instructions: dict[str, dict[str, str]], seconds: float, ranks: int) -> None:
    from editcaption_mega.evaluation.demo_report import write_report

    metrics = out / "sft/metrics.jsonl"
    rows = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    facts = [
        ("training", f"{rows[-1]['step']:,} optimizer steps on {ranks} ranks, {seconds / 60:.1f} minutes in this run"),
        ("samples seen", f"{rows[-1]['samples']:,}"),
        ("tokens", f"{sum(row['tokens'] for row in rows):,}"),
        ("loss", f"{rows[0]['loss']:.3f} at the first step, {rows[-1]['loss']:.3f} at the last"),
        ("counting", "an instruction is parsed and each true primary change must be said exactly, "
         "with object, direction, colour and place"),
    ]  # fmt: skip
    numbers = write_report(out / "report.html", out / "shards/held_out", instructions, metrics=metrics, facts=facts)
    for model, tally in numbers["models"].items():
        low, high = tally["interval"]
        say(f"{model}: {tally['hits']} of {tally['total']} primary changes named correctly "
            f"({100 * tally['share']:.1f} %, 95 % interval {100 * low:.1f} to {100 * high:.1f})")  # fmt: skip


def start_over_if_changed(out: Path, wanted: dict) -> None:
    """An earlier run of other sizes is set aside, never mixed with this one or deleted."""
    mark = out / "demo.json"
    if out.is_dir() and any(out.iterdir()):
        found = json.loads(mark.read_text(encoding="utf-8")) if mark.is_file() else None
        if found is None:
            raise ValueError(f"{out} holds something else than a demo: choose another --output")
        if found != wanted:
            aside = out.with_name(f"{out.name}.{time.strftime('%Y%m%d-%H%M%S')}")
            say(f"{out} holds a demo of other sizes, moved to {aside}")
            out.rename(aside)
    out.mkdir(parents=True, exist_ok=True)
    mark.write_text(json.dumps(wanted) + "\n", encoding="utf-8")


def run(*command) -> None:
    """Run one of our tools with this Python; its own message says what went wrong."""
    environment = dict(os.environ)
    if "-m" in command:  # torchrun: several ranks share the cores
        environment["OMP_NUM_THREADS"] = "1"
    done = subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, env=environment)
    if done.returncode:
        raise ValueError(f"{Path(str(command[0])).name} failed with exit status {done.returncode}; see above")


def say(text: str) -> None:
    print(f"demo: {text}", flush=True)


if __name__ == "__main__":
    cli.run(main)
