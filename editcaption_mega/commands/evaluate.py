"""The evaluation suite: instructions, judgements, people's verdicts, reports."""

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from editcaption_mega import cli
from editcaption_mega.commands.people import add_people_arguments, ground_truth, human_export, human_import
from editcaption_mega.progress_display import progress
from editcaption_mega.settings import EvaluationSettings, before_work, load_settings

if TYPE_CHECKING:
    from editcaption_mega.evaluation.benchmarks import Benchmark
    from editcaption_mega.evaluation.run.executing import Executions
    from editcaption_mega.evaluation.run.generation import Texts
    from editcaption_mega.evaluation.run.success import Failure
    from editcaption_mega.records import Instruction, Judgement

COMMANDS = {
    "run": "everything: generate, judge, execute (where an editor is named) and report",
    "generate": "instructions of every model for every benchmark",
    "judge": "labels and scores of every judge for every instruction",
    "execute": "let an image editor apply every instruction, and compare with the target",
    "report": "one HTML file, and the tables as Markdown, CSV and LaTeX",
    "check-judge": "validate a judge: perturbed instructions must move the right scores",
    "human-export": "tasks for annotators, as files or in a Label Studio project",
    "human-import": "annotators' verdicts, checked against the form's rules",
    "ground-truth": "propose: several models' descriptions, merged; push, pull: a person checks them in Label Studio; "
    "freeze: checked proposals -> ground truth",
    "check-paper": "recompute the weighted scores of the paper's table 2 from its columns",
}

_WORDS = {
    "check-judge": "--judge rules --pairs 20",
    "human-export": "--benchmark synthetic --key runs/eval.key --folder data/tasks",
    "human-import": "--benchmark synthetic --key runs/eval.key --answers answers.jsonl --output runs/verdicts.jsonl",
    "ground-truth": "--benchmark synthetic --step propose --describe base sft --merge base --proposals proposals.jsonl",
}  # of the example

NOTHING_DONE = "dry run: nothing is sent, and nothing is written"


def main(argv: Sequence[str]) -> int | None:
    arguments = make_parser().parse_args(argv)
    if arguments.command == "check-paper":
        check_paper(arguments)
        return None
    overrides = arguments.overrides + ([] if arguments.limit is None else [f"limit={arguments.limit}"])
    settings = load_settings(arguments.config, overrides, EvaluationSettings)
    commands = {
        "run": run, "generate": generate, "judge": judge, "execute": execute, "report": report,
        "check-judge": check_judge,
    }  # fmt: skip
    if arguments.command in commands:
        return commands[arguments.command](settings, arguments)
    people = {"human-export": human_export, "human-import": human_import, "ground-truth": ground_truth}
    benchmarks = {benchmark.name: benchmark for benchmark in prepared(settings, judging=False)}
    if arguments.benchmark not in benchmarks:
        raise cli.ArgumentError(f"--benchmark {arguments.benchmark} is none of {', '.join(benchmarks)}")
    if arguments.dry_run:
        print(NOTHING_DONE)
    return people[arguments.command](settings, benchmarks[arguments.benchmark], arguments)


def make_parser() -> ArgumentParser:
    parser = cli.argument_parser(
        "Evaluate instructions: who wrote what, how judges and people see it, and a report.",
        example="editcaption evaluate run configs/eval_demo.yaml output=runs/eval",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    made = {
        name: cli.add_command(commands, name, example=example_of(name), help=text, description=text)
        for name, text in COMMANDS.items()
    }
    for name, command in made.items():
        if name == "check-paper":
            continue
        cli.add_settings_arguments(command, "eval")
        command.add_argument(
            "--limit", type=int, metavar="N", help="the first N pairs of each benchmark alone; results are kept apart"
        )
    for name in ("run", "generate", "judge", "execute", "report", "check-judge", "check-paper"):
        made[name].add_argument(
            "--dry-run", action="store_true", help="say what would be asked of which endpoint; send and write nothing"
        )
    for name in ("generate", "run"):
        made[name].add_argument("--part", default="", metavar="K/N", help="do part K (from 0) of N of the generation")
    check = made["check-judge"]
    check.add_argument("--judge", required=True, metavar="NAME", help="one of the judges of the settings")
    check.add_argument(
        "--pairs", type=cli.positive, default=100, metavar="N", help="pairs of each benchmark (default 100)"
    )
    add_people_arguments(made["human-export"], made["human-import"], made["ground-truth"])
    return parser


def example_of(name: str) -> str:
    if name == "check-paper":
        return "editcaption evaluate check-paper"
    return f"editcaption evaluate {name} eval_demo output=runs/eval {_WORDS.get(name, '')}".strip()


# ---- the steps of a run ----------------------------------------------------------------------------------------------


def prepared(settings: EvaluationSettings, *, judging: bool) -> "list[Benchmark]":
    """The benchmarks, once all that can be checked before any work is."""
    from editcaption_mega.evaluation.run.preparation import check_before_work, open_benchmarks

    with before_work():
        benchmarks = open_benchmarks(settings)
        check_before_work(settings, benchmarks, judging=judging)
    return benchmarks


def dry_run(settings: EvaluationSettings, arguments: Namespace, *steps: str) -> None:
    """One line for each who would be asked."""
    from editcaption_mega.evaluation.run.dry_run import demands

    part = cli.part_of(arguments.part) if "part" in arguments else None
    print(NOTHING_DONE)
    for demand in demands(settings, prepared(settings, judging="judge" in steps), steps, part):
        print(demand)
    if not steps:
        print("a report asks nobody")


def run(settings: EvaluationSettings, arguments: Namespace) -> None:
    from editcaption_mega.evaluation.run.executing import execute_all
    from editcaption_mega.evaluation.run.generation import collect_all, generate_all
    from editcaption_mega.evaluation.run.judging import sole_finisher
    from editcaption_mega.evaluation.run.success import without_success

    if arguments.dry_run:
        return dry_run(settings, arguments, "generate", "judge", "execute")
    part = cli.part_of(arguments.part)
    benchmarks = prepared(settings, judging=True)
    generate_all(settings, benchmarks, progress, part)
    texts = collect_all(settings, benchmarks)
    if texts is None:
        return print(f"part {arguments.part} is written; the part that ends last judges and reports")
    with sole_finisher(Path(settings.output)) as other:
        if other:
            return print(f"another process judges and reports already: {other}")
        judgements = judged(settings, benchmarks, texts) if settings.judges else []
        executions = execute_all(settings, benchmarks, texts, progress) if settings.editor.url else {}
        write_and_print(settings, benchmarks, texts, judgements, executions)
    refuse_failures(without_success(texts, judgements, executions))


def refuse_failures(failures: "list[Failure]") -> None:
    """Raises ValueError: what a step was for did not come about, though the command went through."""
    if failures:
        mends = dict.fromkeys(failure.mend for failure in failures)
        raise ValueError(f"{'; '.join(failure.sentence for failure in failures)}: {'; '.join(mends)}")


def generate(settings: EvaluationSettings, arguments: Namespace) -> None:
    from editcaption_mega.evaluation.run.generation import collect_all, generate_all
    from editcaption_mega.evaluation.run.success import without_success

    if arguments.dry_run:
        return dry_run(settings, arguments, "generate")
    part = cli.part_of(arguments.part)
    benchmarks = prepared(settings, judging=False)
    generate_all(settings, benchmarks, progress, part)
    texts = collect_all(settings, benchmarks)
    if texts is None:
        return print(f"part {arguments.part} is written; the others are not all there yet")
    for benchmark, models in texts.items():
        for model, rows in models.items():
            print(f"{benchmark}, {model}: {summary(rows.values())}")
    refuse_failures(without_success(texts))


def summary(rows: "Collection[Instruction]") -> str:
    missing = [row.reason for row in rows if row.instruction is None]
    cut_off = sum(row.instruction is not None and row.provenance.get("finished") is False for row in rows)
    why = f", {len(missing)} without ({missing[0]})" if missing else ""
    return f"{len(rows) - len(missing):,} instructions{f', {cut_off:,} cut off at max_tokens' * bool(cut_off)}{why}"


def judge(settings: EvaluationSettings, arguments: Namespace) -> None:
    from editcaption_mega.evaluation.run.generation import written_instructions
    from editcaption_mega.evaluation.run.success import without_success

    if arguments.dry_run:
        return dry_run(settings, arguments, "judge")
    benchmarks = prepared(settings, judging=True)
    texts = written_instructions(settings, benchmarks)
    refuse_failures(without_success(texts, judged(settings, benchmarks, texts)))


def judged(
    settings: EvaluationSettings, benchmarks: "list[Benchmark]", texts: "Mapping[str, Texts]"
) -> "list[Judgement]":
    from editcaption_mega.evaluation.run.judging import judge_all

    judgements, usages = judge_all(settings, benchmarks, texts, progress)
    for name, usage in usages.items():
        made = [one for one in judgements if one.judge == name]
        unscored = sum(bool(one.unscored) for one in made)
        calls = f"; {usage}" if usage.calls else ""
        print(f"judge {name}: {len(made):,} judgements, {unscored:,} with something unscored{calls}")
    return judgements


def execute(settings: EvaluationSettings, arguments: Namespace) -> None:
    from editcaption_mega.evaluation.execution.execute import summarize
    from editcaption_mega.evaluation.run.executing import execute_all
    from editcaption_mega.evaluation.run.generation import written_instructions
    from editcaption_mega.evaluation.run.success import without_success

    if arguments.dry_run:
        return dry_run(settings, arguments, "execute")
    benchmarks = prepared(settings, judging=False)
    texts = written_instructions(settings, benchmarks)
    executions = execute_all(settings, benchmarks, texts, progress)
    for benchmark, by_model in executions.items():
        for one in summarize(by_model, settings.seed):
            low, high = one.interval
            print(f"{benchmark}, {one.model}: {one.measure} {one.mean:.4f} ({low:.4f} .. {high:.4f}), "
                  f"{one.executed:,} executed, {one.failed:,} not")  # fmt: skip
    refuse_failures(without_success(texts, executions=executions))


def report(settings: EvaluationSettings, arguments: Namespace) -> None:
    from editcaption_mega.evaluation.run.executing import written_executions
    from editcaption_mega.evaluation.run.generation import written_instructions
    from editcaption_mega.evaluation.run.judging import written_judgements

    if arguments.dry_run:
        return dry_run(settings, arguments)
    benchmarks = prepared(settings, judging=False)
    texts = written_instructions(settings, benchmarks)
    judgements = written_judgements(settings, benchmarks, texts)
    write_and_print(settings, benchmarks, texts, judgements, written_executions(settings, benchmarks))


def write_and_print(
    settings: EvaluationSettings,
    benchmarks: "list[Benchmark]",
    texts: "Mapping[str, Texts]",
    judgements: "Sequence[Judgement]",
    executions: "Executions",
) -> None:
    from editcaption_mega.evaluation.run.reporting import report_folder, write_run_report

    write_run_report(settings, benchmarks, texts, judgements, executions, progress)
    folder = report_folder(settings)
    print((folder / "tables.md").read_text(encoding="utf-8"))
    print(f"open {folder / 'report.html'}")


def check_judge(settings: EvaluationSettings, arguments: Namespace) -> int | None:
    from editcaption_mega.evaluation.judge.validation import check_judge as check
    from editcaption_mega.evaluation.judge.validation import passed
    from editcaption_mega.evaluation.run.judging import dimensions_of, judge_function

    chosen = [judge for judge in settings.judges if judge.name == arguments.judge]
    if not chosen:
        known = ", ".join(judge.name for judge in settings.judges) or "none"
        raise cli.ArgumentError(f"--judge {arguments.judge} is none of the settings' judges: {known}")
    benchmarks = [benchmark.first(arguments.pairs) for benchmark in prepared(settings, judging=True)]
    if arguments.dry_run:
        from editcaption_mega.evaluation.run.dry_run import check_demand

        print(NOTHING_DONE)
        return print(*(check_demand(chosen[0], some) for some in benchmarks), sep="\n")
    good = True
    for some in benchmarks:
        checks = check(some, judge_function(chosen[0], settings, progress), dimensions=dimensions_of(chosen[0]))
        print(f"{arguments.judge} on {len(some)} pairs of {some.name}")
        print("\n".join(f"  {one}" for one in checks))
        good &= passed(checks)
        path = Path(settings.output) / "judge_checks" / arguments.judge / f"{some.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps([one.to_json() for one in checks], indent=2) + "\n", encoding="utf-8")
    return 0 if good else 1


def check_paper(arguments: Namespace) -> None:
    if arguments.dry_run:
        return print(f"{NOTHING_DONE}\ncheck-paper asks nobody: it reads the tables that the package holds")
    from editcaption_mega.evaluation.rubric.paper_tables import composite_deviations, paper_tables

    found = composite_deviations()
    tables = paper_tables()
    print(f"table 2: {len(found)} weighted scores do not follow from their columns (eq. 4):")
    for one in found:
        print(f"  {one}")
    print(f"({len(tables.doubtful)} cells of the scanned tables are doubtful)")
