"""The demo: render pairs, train a small Qwen3-VL with SFT and then DPO on its own mistakes, and report."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from editcaption_mega import cli

ROOT = Path(__file__).resolve().parents[1]
SFT_CONFIG, DPO_CONFIG = "configs/sft_demo.yaml", "configs/dpo_demo.yaml"
PROMPT = ROOT / "configs/demo_prompt.yaml"
EVALUATION_CONFIG = "configs/eval_demo.yaml"
MODELS = ("base", "SFT", "DPO only", "SFT + DPO")  # as in that file


def main(argv):
    parser = cli.argument_parser(
        "Render image pairs, train a small random Qwen3-VL on them with Megatron-Core (SFT), collect "
        "what it gets wrong on other pairs, train it to prefer the truth (DPO; from the base model too), let all four "
        "models describe held-out pairs, and report.",
        example="python tools/demo.py --output runs/demo",
    )
    parser.add_argument("--output", type=Path, default=ROOT / "runs/demo", metavar="DIR", help="default runs/demo")
    parser.add_argument("--pairs", type=int, default=12_000, metavar="N", help="training pairs (default 12000)")
    parser.add_argument("--pool", type=int, default=4_000, metavar="N", help="pairs to make mistakes on (default 4000)")
    parser.add_argument("--held-out", type=int, default=1_500, metavar="N", help="pairs to describe (default 1500)")
    parser.add_argument("--steps", type=int, metavar="N", help=f"SFT steps (default: that of {SFT_CONFIG})")
    parser.add_argument("--dpo-steps", type=int, metavar="N", help=f"DPO steps (default: from {DPO_CONFIG})")
    parser.add_argument("--ranks", type=int, default=2, metavar="N", help="processes that train (default 2)")
    parser.add_argument("--reduced", action="store_true", help="a quick run of every part, too short to learn much")
    arguments = parser.parse_args(argv)
    if arguments.reduced:
        arguments.pairs, arguments.pool, arguments.held_out = 600, 100, 60
        arguments.steps, arguments.dpo_steps = 60, 4
        if arguments.output == ROOT / "runs/demo":
            arguments.output = ROOT / "runs/demo_reduced"
    demo(arguments)


def demo(arguments) -> None:
    """Each part is a tool that a user would call; what is complete from an earlier run is used again."""
    out, began = arguments.output, time.monotonic()
    wanted = {name: getattr(arguments, name) for name in ("pairs", "pool", "held_out", "steps", "dpo_steps")}
    start_over_if_changed(out, wanted)
    sets = (
        ("train", "demo_world_captioned", arguments.pairs, 1),
        ("held_out", "demo_world", arguments.held_out, 2),
        ("pool", "demo_world", arguments.pool, 3),
    )
    for name, world, count, seed in sets:
        if not (out / "shards" / name / "index.json").is_file():
            say(f"rendering {count:,} pairs ({name})")
            shutil.rmtree(out / "shards" / name, ignore_errors=True)
            run("tools/make_shards.py", "--format", "synthetic", "--input", ROOT / f"configs/{world}.yaml",
                "--count", count, "--seed", seed,
                "--output", out / "shards" / name)  # fmt: skip
    if not (out / "model/config.json").is_file():
        say("drawing a small random Qwen3-VL with a tokenizer of its own")
        make_model(out / "model")

    steps = [f"training.steps={arguments.steps}"] if arguments.steps else []
    say(f"SFT on {arguments.ranks} ranks")
    train(arguments, "launch/pretrain_sft.sh", SFT_CONFIG, "model", "train", "sft", *steps)

    preference = out / "shards/preference"
    if not (preference / "index.json").is_file():
        say(f"the SFT model writes instructions for {arguments.pool:,} other pairs, to collect its mistakes")
        shutil.rmtree(preference, ignore_errors=True)
        run("tools/curate.py", "sample-rejected", "--model", out / "sft_hf", "--shards", out / "shards/pool",
            "--output", preference, "--samples", 3, "--temperature", 1, "--max-new-tokens", 48, "--batch-size", 100,
            "--min-pixels", 1024, "--max-pixels", 1 << 20, "--prompt", PROMPT)  # fmt: skip
    steps = [f"training.steps={arguments.dpo_steps}"] if arguments.dpo_steps else []
    for start, name in (("sft_hf", "sft_dpo"), ("model", "dpo_only")):
        say(f"DPO on {arguments.ranks} ranks, from {'SFT' if start == 'sft_hf' else 'the base model'} ({name})")
        train(arguments, "launch/train_dpo.sh", DPO_CONFIG, start, "preference", name, *steps)

    say(f"evaluating all four models on {arguments.held_out:,} held-out pairs")
    settings = out / "evaluation.yaml"
    settings.write_text((ROOT / EVALUATION_CONFIG).read_text("utf-8").replace("runs/demo/", f"{out}/"), "utf-8")
    run("tools/evaluate.py", "run", settings)
    report(out, arguments.ranks)
    say(
        f"the whole demo took {(time.monotonic() - began) / 60:.1f} minutes; open {out / 'report.html'} and "
        f"{out / 'evaluation/report/report.html'}"
    )


def train(arguments, script: str, config: str, start: str, shards: str, name: str, *overrides: str) -> None:
    """Train `name` from the folder `start` on a set of shards, and convert it to Hugging Face form."""
    out = arguments.output
    run("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", arguments.ranks,
        script, ROOT / config, f"model.folder={out / start}", f"data.shards=[{out / 'shards' / shards}]",
        f"data.prompt={PROMPT}", f"training.output={out / name}", *overrides)  # fmt: skip
    say(f"converting {name} to Hugging Face form")
    shutil.rmtree(out / f"{name}_hf", ignore_errors=True)
    run("tools/megatron_to_hf.py", "--checkpoint", out / name, "--output", out / f"{name}_hf")


def make_model(folder: Path) -> None:
    from editcaption_mega.data.synthetic import WorldSettings, corpus_texts
    from editcaption_mega.data.text.prompt import Prompt
    from editcaption_mega.model.random_folder import SmallModel, train_tokenizer, write_random_folder

    prompt = Prompt.load(PROMPT)
    frame = f"system\nuser\nassistant\n{prompt.system}{prompt.before_source}{prompt.before_target}{prompt.request}"
    texts = corpus_texts(WorldSettings(), seed=1, count=2000) + [frame] * 50
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    write_random_folder(partial, train_tokenizer(texts, vocabulary=640), SmallModel())
    partial.rename(folder)


def report(out: Path, ranks: int) -> None:
    from editcaption_mega.evaluation.record_files import read_records
    from editcaption_mega.evaluation.report.demo import write_report
    from editcaption_mega.records import Instruction

    rows = {
        model: read_records(out / f"evaluation/instructions/{model}/synthetic.jsonl", Instruction) for model in MODELS
    }
    instructions = {model: {row.id: row.instruction or "" for row in found} for model, found in rows.items()}
    runs = {"SFT": out / "sft/metrics.jsonl", "SFT + DPO": out / "sft_dpo/metrics.jsonl"}
    runs["DPO only"] = out / "dpo_only/metrics.jsonl"
    facts = []
    for name, path in runs.items():
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        seconds = sum(row["seconds"] for row in rows)
        facts.append(
            (name, f"{rows[-1]['step']:,} optimizer steps on {ranks} ranks in {seconds / 60:.1f} minutes, "
             f"{rows[-1]['samples']:,} samples, {sum(row['tokens'] for row in rows):,} tokens; loss "
             f"{rows[0]['loss']:.3f} at the first step, {rows[-1]['loss']:.3f} at the last")
        )  # fmt: skip
    facts += [
        ("captions for SFT", captioner_told(out / "shards/train")),
        ("mistakes", "for pairs that no training has seen the SFT model draws three instructions each; the most "
         "frequent wrong one is the rejected answer, the truth the chosen one"),
        ("every pair", "is in evaluation/report/report.html: pictures, what each model wrote, what is wrong with it"),
        ("judging", "an instruction is parsed and compared with the facts of the pair: hits, wrong attributes and "
         "inventions give the rubric's scores; wholly correct means each primary change exactly and nothing else"),
    ]  # fmt: skip
    numbers = write_report(
        out / "report.html", out / "shards/held_out", instructions, before="SFT", after="SFT + DPO", runs=runs,
        facts=facts,
    )  # fmt: skip
    for model, found in numbers["models"].items():
        low, high = found["interval"]
        modes = ", ".join(f"{mode} {100 * rate['share']:.1f} %" for mode, rate in found["failures"].items())
        say(f"{model}: weighted score {found['weighted']:.3f} (95 % interval {low:.3f} to {high:.3f}), "
            f"{100 * found['correct']['share']:.1f} % wholly correct; errors: {modes}")  # fmt: skip


def captioner_told(shards: Path) -> str:
    """How often the training captions are wrong, counted."""
    from collections import Counter

    from editcaption_mega.data import open_shards

    reader = open_shards(shards)
    wrong = [reader.pair(i).provenance.get("caption_mistakes", []) for i in range(len(reader))]
    counts = Counter(mode for modes in wrong for mode in modes)
    told = ", ".join(f"{count:,} by {mode}" for mode, count in counts.most_common())
    return (
        f"written by a scripted captioner that errs as vision-language models do (the paper's captions come from one): "
        f"{sum(map(bool, wrong)):,} of {len(wrong):,} are wrong on purpose ({told}), most directions are the opposite "
        "one. The pairs for DPO and the judged ones have the truth"
    )


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
