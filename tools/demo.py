"""The demo: render pairs, train a small Qwen3-VL with SFT and then DPO on its own mistakes, and report."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from editcaption_mega import cli

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for `demos`: Python leaves it out under -P
ROOT = Path(__file__).resolve().parents[1]
SFT_CONFIG, DPO_CONFIG = "configs/sft_demo.yaml", "configs/dpo_demo.yaml"
PROMPT = ROOT / "configs/demo_prompt.yaml"
EVALUATION_CONFIG = "configs/eval_demo.yaml"
WORLD = ROOT / "configs/demo_world_captioned.yaml"
MODELS = ("base", "SFT", "DPO only", "SFT + DPO", "SFT + LoRA DPO")  # as in that file
LORA = ("model.adapters.rank=8", "optimizer.learning_rate=2.0e-3", "optimizer.min_learning_rate=1.0e-4")


def main(argv):
    parser = cli.argument_parser(
        "Render image pairs, train a small random Qwen3-VL on them with Megatron-Core (SFT), collect "
        "what it gets wrong on other pairs, train it to prefer the truth (DPO; from the base model too, and once more "
        "with adapters alone), let all five models describe held-out pairs, and report.",
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
    parser.add_argument("--sft-only", action="store_true", help="stop when the SFT model is there (OUTPUT/sft_hf)")
    parser.add_argument(
        "--world", type=Path, default=WORLD, metavar="FILE",
        help="of the training pairs (default: that of a captioner that errs, configs/demo_world_captioned.yaml)",
    )  # fmt: skip
    arguments = parser.parse_args(argv)
    for name in ("pairs", "pool", "held_out", "steps", "dpo_steps", "ranks"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise cli.ArgumentError(f"--{name.replace('_', '-')} is {value}: give 1 or more")
    if arguments.output.exists() and not arguments.output.is_dir():
        raise cli.ArgumentError(f"--output {arguments.output} is a file: name a folder")
    if not arguments.world.is_file():
        raise cli.ArgumentError(f"--world {arguments.world} does not exist: name a YAML file of the synthetic world")
    if arguments.reduced:
        arguments.pairs, arguments.pool, arguments.held_out = 600, 100, 60
        arguments.steps, arguments.dpo_steps = 60, 4
        if arguments.output == ROOT / "runs/demo":
            arguments.output = ROOT / "runs/demo_reduced"
    demo(arguments)


def demo(arguments) -> None:
    """Each part is a tool that a user would call; what is complete from an earlier run is used again."""
    from demos.demo_folder import start_over_if_changed

    out, began = arguments.output, time.monotonic()
    wanted = {name: getattr(arguments, name) for name in ("pairs", "pool", "held_out", "steps", "dpo_steps")}
    if arguments.world != WORLD:
        wanted["world"] = arguments.world.read_text("utf-8")
    start_over_if_changed(out, wanted, "demo.json", say)
    sets = (
        ("train", arguments.world.resolve(), arguments.pairs, 1),
        ("held_out", ROOT / "configs/demo_world.yaml", arguments.held_out, 2),
        ("pool", ROOT / "configs/demo_world.yaml", arguments.pool, 3),
    )
    for name, world, count, seed in sets[:1] if arguments.sft_only else sets:
        if not (out / "shards" / name / "index.json").is_file():
            say(f"rendering {count:,} pairs ({name})")
            shutil.rmtree(out / "shards" / name, ignore_errors=True)
            run("tools/make_shards.py", "--format", "synthetic", "--input", world, "--count", count, "--seed", seed,
                "--output", out / "shards" / name)  # fmt: skip
    if not (out / "model/config.json").is_file():
        say("drawing a small random Qwen3-VL with a tokenizer of its own")
        make_model(out / "model")

    steps = [f"training.steps={arguments.steps}"] if arguments.steps else []
    say(f"SFT on {arguments.ranks} ranks")
    train(arguments, "launch/pretrain_sft.sh", SFT_CONFIG, "model", "train", "sft", *steps)
    if arguments.sft_only:
        return

    preference = out / "shards/preference"
    if not (preference / "index.json").is_file():
        say(f"the SFT model writes instructions for {arguments.pool:,} other pairs, to collect its mistakes")
        shutil.rmtree(preference, ignore_errors=True)
        run("tools/curate.py", "sample-rejected", "--model", out / "sft_hf", "--shards", out / "shards/pool",
            "--output", preference, "--samples", 3, "--temperature", 1, "--max-new-tokens", 48, "--batch-size", 100,
            "--min-pixels", 1024, "--max-pixels", 1 << 20, "--prompt", PROMPT)  # fmt: skip
    steps = [f"training.steps={arguments.dpo_steps}"] if arguments.dpo_steps else []
    for start, name, changes in (
        ("sft_hf", "sft_dpo", ()),
        ("sft_hf", "sft_dpo_lora", LORA),
        ("model", "dpo_only", ()),
    ):
        what = f"DPO{' of adapters' if changes else ''} on {arguments.ranks} ranks"
        say(f"{what}, from {'SFT' if start == 'sft_hf' else 'the base model'} ({name})")
        train(arguments, "launch/train_dpo.sh", DPO_CONFIG, start, "preference", name, *changes, *steps)

    say(f"evaluating all five models on {arguments.held_out:,} held-out pairs")
    run("tools/evaluate.py", "run", evaluation_settings(out, arguments.ranks))
    show_report(out)
    print_summary(out)
    say(f"the whole demo took {(time.monotonic() - began) / 60:.1f} minutes; open {out / 'report.html'}")


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
    from editcaption_mega.model.random_folder import write_small_folder
    from editcaption_mega.settings import SmallModel

    write_small_folder(
        folder, SmallModel(), Prompt.load(PROMPT), corpus_texts(WorldSettings(), seed=1, count=2000), vocabulary=640
    )


def evaluation_settings(out: Path, ranks: int) -> Path:
    """The demo's evaluation, of the models in `out`."""
    import yaml

    settings = yaml.safe_load((ROOT / EVALUATION_CONFIG).read_text("utf-8").replace("runs/demo/", f"{out}/"))
    settings["report"]["notes"] |= {
        "captions for SFT": captions_note(out / "shards/train"),
        "training": f"with Megatron-Core on {ranks} ranks",
        "LoRA": adapters_note(out),
    }
    path = out / "evaluation.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return path


def show_report(out: Path) -> None:
    """The report where a newcomer looks for it: one page, in the run's folder, that leads to nothing else."""
    page = out / "report.html"
    page.unlink(missing_ok=True)
    page.symlink_to("evaluation/report/report.html")


def print_summary(out: Path) -> None:
    """A line for each model. What is not written counts as an empty instruction here: the report leaves it out, and
    says how many that are."""
    from statistics import fmean

    from editcaption_mega.data import open_shards
    from editcaption_mega.evaluation.judge.rule_judge import judge
    from editcaption_mega.evaluation.record_files import read_records
    from editcaption_mega.evaluation.report.page.panels import RARELY
    from editcaption_mega.evaluation.stats.intervals import bootstrap_interval
    from editcaption_mega.records import FAILURE_MODES, Instruction

    shards = open_shards(out / "shards/held_out")
    truths = {pair.id: pair.changes for pair in map(shards.pair, range(len(shards)))}
    for model in MODELS:
        rows = read_records(out / f"evaluation/instructions/{model}/synthetic.jsonl", Instruction)
        judged = [judge(row.instruction or "", truths[row.id]) for row in rows]
        weighted = [one.weighted for one in judged]
        low, high = bootstrap_interval(weighted)
        rates = {mode: fmean(mode in one.failure_modes for one in judged) for mode in FAILURE_MODES}
        modes = ", ".join(f"{mode} {100 * rate:.1f} %" for mode, rate in rates.items())
        correct = fmean(one.correct for one in judged)
        caution = " (few are no merit of texts that are hardly ever right: what they leave out is in none)"
        say(f"{model}: weighted score {fmean(weighted):.3f} (95 % interval {low:.3f} to {high:.3f}), "
            f"{100 * correct:.1f} % wholly correct; errors: {modes}{caution if correct < RARELY else ''}")  # fmt: skip


def adapters_note(out: Path) -> str:
    """How many parameters the run with adapters trains, of how many."""
    from editcaption_mega.conversion import AdapterChoice, rules_for
    from editcaption_mega.conversion.rules import unique_rules
    from editcaption_mega.model import Architecture
    from editcaption_mega.settings import load_job

    architecture = Architecture.from_folder(out / "sft_hf")
    adapters = AdapterChoice.of(architecture, load_job(ROOT / DPO_CONFIG, LORA).model.adapters)
    weights = sum(rule.size for rule in unique_rules(rules_for(architecture)))
    return (
        f"the same preference training of adapters of rank {adapters.settings.rank} alone, beside weights that stay as "
        f"SFT left them: {adapters.size:,} parameters are trained instead of {weights:,}, at ten times the learning "
        "rate; the reference is the model with its adapters off, and what is judged has them in its weights"
    )


def captions_note(shards: Path) -> str:
    """How often the training captions are wrong, counted."""
    from collections import Counter

    from editcaption_mega.data import open_shards

    reader = open_shards(shards)
    mistakes = [reader.pair(i).provenance.get("caption_mistakes", []) for i in range(len(reader))]
    counts = Counter(mode for modes in mistakes for mode in modes)
    by_mode = ", ".join(f"{count:,} by {mode}" for mode, count in counts.most_common())
    return (
        f"written by a scripted captioner that errs as vision-language models do (the paper's captions come from one): "
        f"{sum(map(bool, mistakes)):,} of {len(mistakes):,} are wrong on purpose ({by_mode}), most directions are the "
        "opposite one. The pairs for DPO and the judged ones have the truth"
    )


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
