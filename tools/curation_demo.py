"""The curation demo: from raw pairs to refined instructions and preferences, every step by the command that a user
gives, and a report of what each was worth."""

import json
import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from editcaption_mega import cli

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for `demos`: Python leaves it out under -P
ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT / "tests/data_files/pairs/pairs.jsonl"
MODEL, REFERENCE = ROOT / "runs/demo/sft_dpo_hf", ROOT / "runs/demo/sft_hf"
REDUCED = {"pairs": 48, "samples": 3, "training_pairs": 1500, "training_steps": 120, "sft_steps": 8, "tasks": 12}
NONE = "none"


def main(argv):
    arguments = parsed(argv)
    from demos.demo_folder import start_over_if_changed

    plan, studio = checked(arguments)
    wanted = {name: str(value) for name, value in vars(plan).items() if name != "files"}
    began = time.monotonic()
    start_over_if_changed(plan.files.root, wanted, "curation_demo.json", say)
    demo(plan, studio, arguments.kill_stages)
    say(f"it took {(time.monotonic() - began) / 60:.1f} minutes; open {plan.files.root / 'report.html'}")


def parsed(argv):
    parser = cli.argument_parser(
        "Synthetic and real pairs -> captions from a `transformers serve` that the job starts -> scores -> filter -> "
        "tasks for people -> simulated annotators -> SFT and preference sets -> a short SFT, and a report. A stage "
        "that is done is not done again.",
        example="python tools/curation_demo.py --output runs/curation_demo",
    )
    add = parser.add_argument
    add("--output", type=Path, metavar="DIR", help="default runs/curation_demo")
    add("--reduced", action="store_true", help="a quick run of every part, with a model that learns little")
    add("--pairs", type=cli.positive, default=320, metavar="N", help="synthetic pairs (default 320)")
    add("--samples", type=cli.positive, default=4, metavar="N", help="captions of each pair (default 4)")
    add("--real", default=str(REAL), metavar="FILE.jsonl", help=f"real pairs, or {NONE} (default: two photographs)")
    add("--model", default="", metavar="DIR", help="the captioner (default: that of runs/demo; else one is trained)")
    add("--reference", default="", metavar="DIR", help="the model that the captioner's DPO began with")
    add("--training-pairs", type=cli.positive, default=12_000, metavar="N", help="of a captioner that is trained")
    add("--training-steps", type=cli.positive, default=1200, metavar="N", help="the same (default 1200)")
    add("--sft-steps", type=cli.positive, default=40, metavar="N", help="of SFT on the result (default 40)")
    add("--tasks", type=cli.positive, default=80, metavar="N", help="preference tasks (default 80)")
    add("--annotators", type=cli.positive, default=2, metavar="N", help="each answers every task (default 2)")
    add("--error-rate", type=cli.between(0, 1), default=0.1, metavar="SHARE", help="of annotators (default 0.1)")
    add(
        "--label-studio", default="", metavar="PROGRAM",
        help=f"label-studio's executable, or {NONE} for JSONL (default: the one of $EDITCAPTION_LABEL_STUDIO or PATH)",
    )  # fmt: skip
    add("--ranks", type=cli.positive, default=2, metavar="N", help="processes that train (default 2)")
    add("--kill-stages", action="store_true", help="kill each stage once with -9 at a random moment, and go on")
    arguments = parser.parse_args(argv)
    if arguments.reduced:
        vars(arguments).update(REDUCED)
    return arguments


def checked(arguments):
    """The plan, and Label Studio's program or None. Raises what says which argument cannot work, before any work."""
    from demos.curation_stages import DemoPlan

    from editcaption_mega.curation.demo.demo_files import DemoFiles
    from editcaption_mega.evaluation.label_studio.local_server import installed_program
    from editcaption_mega.inference.local.folder import check_model
    from editcaption_mega.inference.serving.programs import program_of
    from editcaption_mega.settings import ServerSettings, before_work

    if arguments.samples < 2:
        raise cli.ArgumentError("--samples is 1: captions of a pair agree or not from 2 on")
    name = "runs/curation_demo_reduced" if arguments.reduced else "runs/curation_demo"
    model, reference = arguments.model, arguments.reference
    if not model and not arguments.reduced and MODEL.is_dir() and REFERENCE.is_dir():
        model, reference = str(MODEL), str(REFERENCE)
    with before_work():
        program_of(ServerSettings(program="transformers", model="-"))
        for folder in filter(None, (model, reference)):
            check_model(folder)
        named = "" if arguments.label_studio == NONE else arguments.label_studio
        studio = None if arguments.label_studio == NONE else installed_program(named)
        real = None if arguments.real == NONE else Path(arguments.real).resolve()
        if real is not None and not real.is_file():
            raise cli.ArgumentError(f"--real {arguments.real} is no file: give a JSONL of pairs, or {NONE}")
    return DemoPlan(
        files=DemoFiles((arguments.output or ROOT / name).resolve()),
        world=ROOT / f"configs/{'curation_demo_world' if arguments.reduced else 'demo_world'}.yaml",
        pairs=arguments.pairs, samples=arguments.samples, real=real,
        model=Path(model).resolve() if model else None,
        reference=Path(reference).resolve() if reference else None,
        training_pairs=arguments.training_pairs, training_steps=arguments.training_steps,
        sft_steps=arguments.sft_steps, preference_tasks=arguments.tasks, annotators=arguments.annotators,
        error_rate=arguments.error_rate, ranks=arguments.ranks, label_studio=studio is not None,
    ), studio  # fmt: skip


def demo(plan, studio: str | None, kills: bool) -> None:
    from demos.curation_stages import first_stages, people_stages, scoring_stages, training_stages
    from demos.stages import StageRunner

    from editcaption_mega.curation.demo.demo_figures import demo_figures
    from editcaption_mega.curation.demo.demo_page import write_demo_page
    from editcaption_mega.curation.demo.known_truth import write_pool
    from editcaption_mega.files import write_atomically

    files = plan.files
    runner = StageRunner(files.root, kills, say, {"OMP_NUM_THREADS": "1"})
    for folder in ("raw", "columns", "log_probs", "people"):
        (files.root / folder).mkdir(exist_ok=True)
    for stage in first_stages(plan):
        runner.run(stage)
    sets = [files.root / "raw/synthetic/pairs.jsonl", *([plan.real] if plan.real else [])]
    count = write_pool(files.root / "raw", sets)
    say(f"a pool of {count:,} pairs, of which nothing is said")
    for stage in scoring_stages(plan):
        runner.run(stage)
    with ExitStack() as stack:
        server = started(stack, studio, plan, runner)
        for stage in people_stages(plan, server):
            runner.run(stage)
    for stage in training_stages(plan):
        runner.run(stage)
    figures = demo_figures(files, plan.best) | {"stages": runner.records}
    write_atomically(files.root / "figures.json", json.dumps(figures, indent=1) + "\n")
    write_demo_page(files, figures, settings_said(plan))
    result = figures["result"]
    say(
        f"{result['sft']:,} refined instructions, {result['preference']:,} preference pairs (digest {result['digest']})"
    )


def started(stack: ExitStack, studio: str | None, plan, runner) -> str:
    """The address of a Label Studio that runs while people's stages need it; "" without one."""
    from demos.curation_stages import people_stages

    from editcaption_mega.evaluation.label_studio.api import TOKEN_VARIABLE
    from editcaption_mega.evaluation.label_studio.local_server import local_server

    if studio is None:
        return ""
    if all(runner.is_done(stage) for stage in people_stages(plan, "http://127.0.0.1:1")):
        return "http://127.0.0.1:1"  # nobody is asked
    say("starting Label Studio; the first start takes minutes")
    server = stack.enter_context(local_server(studio, plan.files.root / "label_studio", say=say))
    runner.environment[TOKEN_VARIABLE] = server.token
    return server.url


def settings_said(plan) -> list[tuple[str, str]]:
    """What the report says of how it was made."""
    trained = f"trained here for {plan.training_steps:,} steps" if plan.model is None else str(plan.model.name)
    return [
        ("captioner", trained + (f", whose DPO began with {plan.reference.name}" if plan.reference else "")),
        ("rules", ", ".join(plan.rules)),
        ("best caption of a pair by", plan.best),
        ("people", f"{plan.annotators} simulated annotators who err in {100 * plan.error_rate:g} % of the tasks, "
                   + ("through Label Studio" if plan.label_studio else "as JSONL")),
        ("machine", f"{os.cpu_count()} processors"),
    ]  # fmt: skip


def say(text: str) -> None:
    print(f"curation demo: {text}", flush=True)


if __name__ == "__main__":
    cli.run(main)
