"""The commands of editcaption evaluate in which people take part: tasks out, verdicts in, ground truth."""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from editcaption_mega import cli
from editcaption_mega.progress_display import progress
from editcaption_mega.settings import EvaluationSettings, before_work
from editcaption_mega.words import printable

if TYPE_CHECKING:
    from editcaption_mega.evaluation.benchmarks import Benchmark
    from editcaption_mega.evaluation.label_studio.api import LabelStudio
    from editcaption_mega.inference.endpoint.address import Endpoint


def add_people_arguments(export: ArgumentParser, imported: ArgumentParser, truth: ArgumentParser) -> None:
    for command in (export, imported):
        command.add_argument(
            "--key", required=True, type=Path, metavar="FILE", help="which task is which model: secret"
        )
    for command in (export, imported, truth):
        command.add_argument("--benchmark", required=True, metavar="NAME")
        command.add_argument("--label-studio", default="", metavar="URL", help="a Label Studio server")
        command.add_argument(
            "--token-env", default="LABEL_STUDIO_API_KEY", metavar="NAME", help="variable with its token"
        )
        command.add_argument("--project", default="", metavar="TITLE", help="Label Studio project")
        command.add_argument(
            "--dry-run", action="store_true", help="say what would be made of what is there; send and write nothing"
        )
    export.add_argument("--folder", required=True, type=Path, metavar="DIR", help="tasks and pictures for annotators")
    export.add_argument("--pairs", type=cli.positive, metavar="N", help="the first N pairs only")
    export.add_argument(
        "--annotators", type=cli.positive, default=1, metavar="N", help="Label Studio: verdicts wanted per task"
    )
    export.add_argument("--document-root", type=Path, metavar="DIR", help="Label Studio: its folder of local files")
    imported.add_argument("--rule", choices=("majority", "worst"), default="majority", help="where annotators differ")
    imported.add_argument("--answers", type=Path, metavar="FILE.jsonl", help="answers, when not from Label Studio")
    imported.add_argument("--output", required=True, type=Path, metavar="FILE.jsonl", help="verdicts")
    truth.add_argument("--step", required=True, choices=("propose", "push", "pull", "freeze"))
    truth.add_argument("--describe", nargs="+", default=[], metavar="MODEL", help="propose: models that describe")
    truth.add_argument("--merge", default="", metavar="MODEL", help="propose: the model that merges")
    truth.add_argument("--proposals", required=True, type=Path, metavar="FILE.jsonl")
    truth.add_argument("--output", type=Path, metavar="FILE.json", help="freeze: the ground truth")


# ---- verdicts --------------------------------------------------------------------------------------------------------


def human_export(settings: EvaluationSettings, benchmark: "Benchmark", arguments: Namespace) -> None:
    from editcaption_mega.evaluation.human.tasks import export_tasks, planned_export
    from editcaption_mega.evaluation.run.generation import written_instructions

    root = arguments.document_root
    if root is not None and root.resolve() not in arguments.folder.resolve().parents:
        raise cli.ArgumentError(f"--folder {arguments.folder} must lie in a folder of --document-root {root}")
    texts = written_instructions(settings, [benchmark])[benchmark.name]
    rows = [row for by_id in texts.values() for row in by_id.values()]
    ids = benchmark.ids[: arguments.pairs] if arguments.pairs else None
    if arguments.dry_run:
        plan = planned_export(benchmark, rows, arguments.folder, arguments.key, ids=ids)
        print(f"{arguments.folder}: {plan.tasks:,} tasks; {len(plan.left_out):,} pairs have no instruction to judge")
        if arguments.label_studio:
            print(f"{arguments.label_studio}: project {title_of(arguments)}, at most {plan.tasks:,} new tasks")
        return
    made = export_tasks(benchmark, rows, arguments.folder, arguments.key, ids=ids, progress=progress)
    print(f"{arguments.folder}: {made.tasks:,} tasks; {len(made.left_out):,} pairs have no instruction to judge")
    print(f"{arguments.key} says which task is which model: keep it from annotators")
    if arguments.label_studio:
        from editcaption_mega.evaluation.label_studio.verdict_tasks import push_tasks

        pushed = push_tasks(
            server_of(settings, arguments), arguments.folder, title_of(arguments), annotators=arguments.annotators,
            document_root=root, progress=progress,
        )  # fmt: skip
        print(
            f"{arguments.label_studio}: project {pushed.project}, {pushed.new:,} new tasks, {pushed.existing:,} there"
        )


def human_import(settings: EvaluationSettings, benchmark: "Benchmark", arguments: Namespace) -> int:
    from editcaption_mega.evaluation.human.filed_answers import read_answers
    from editcaption_mega.evaluation.human.tasks import Key
    from editcaption_mega.evaluation.human.verdicts import adjudicate, import_answers, severity_table
    from editcaption_mega.evaluation.record_files import write_records

    if bool(arguments.label_studio) == bool(arguments.answers):
        raise cli.ArgumentError("give --answers FILE.jsonl or --label-studio URL, one of the two")
    with before_work():
        key = Key.read(arguments.key)
        answers = read_answers(arguments.answers) if arguments.answers else []
    if arguments.label_studio:
        if arguments.dry_run:
            print(f"{arguments.label_studio}: the answers of project {title_of(arguments)} would be asked for")
            return 0
        from editcaption_mega.evaluation.label_studio.verdict_tasks import pull_answers

        answers = pull_answers(server_of(settings, arguments), title_of(arguments))
    imported = import_answers(answers, key)
    accepted = [verdict for verdict in imported.accepted if verdict.benchmark == arguments.benchmark]
    refused = arguments.output.with_name(arguments.output.name + ".refused")
    if not arguments.dry_run:
        write_records(arguments.output, accepted)
        write_records(refused, imported.refused)
    for answer in imported.refused[:10]:
        print(printable(f"refused: {answer.where}, task {answer.task}, annotator {answer.annotator}: {answer.reason}"))
    more = f"; {len(imported.refused):,} refused, all in {refused}" if imported.refused else ""
    print(f"{arguments.output}: {len(accepted):,} verdicts{more}; {len(imported.unanswered):,} tasks without an answer")
    for row in severity_table(adjudicate(accepted, arguments.rule)):
        shares = ", ".join(f"{severity} {row.percent(severity):.2f} %" for severity in row.counts)
        print(f"  {row.model}: {shares} (n = {row.n})")
    return 1 if imported.refused else 0


def server_of(settings: EvaluationSettings, arguments: Namespace) -> "LabelStudio":
    from editcaption_mega.evaluation.label_studio.api import LabelStudio

    log = Path(settings.output) / "cache"
    return LabelStudio.from_environment(arguments.label_studio, arguments.token_env, log=log)


def title_of(arguments: Namespace) -> str:
    return arguments.project or f"editcaption {arguments.benchmark}"


# ---- ground truth ----------------------------------------------------------------------------------------------------


def ground_truth(settings: EvaluationSettings, benchmark: "Benchmark", arguments: Namespace) -> None:
    if arguments.step == "propose":
        propose_truth(settings, benchmark, arguments)
    elif arguments.step == "freeze":
        freeze_truth(benchmark, arguments)
    else:
        check_in_label_studio(settings, benchmark, arguments)


def propose_truth(settings: EvaluationSettings, benchmark: "Benchmark", arguments: Namespace) -> None:
    from editcaption_mega.evaluation import ground_truth as builder
    from editcaption_mega.inference.endpoint.address import Endpoint

    served: dict[str, Endpoint] = {
        model.name: Endpoint.of(model.endpoint, settings.generation)
        for model in settings.models
        if model.origin == "endpoint"
    }
    for name in [*arguments.describe, arguments.merge]:
        if name not in served:
            raise cli.ArgumentError(
                f"{name or '--merge'} names no model of the settings with an endpoint: {list(served)}"
            )
    describers = {name: served[name] for name in arguments.describe}
    if arguments.dry_run:
        builder.check_describers(describers)
        for name in describers:
            print(f"{benchmark.name}, model {name}: {len(benchmark):,} of {asked_of(served[name])} (one for each pair)")
        asked = asked_of(served[arguments.merge])
        print(f"{benchmark.name}, merged by {arguments.merge}: {len(benchmark):,} of {asked} (at most)")
        return
    rows = builder.propose(benchmark, describers, served[arguments.merge], Path(settings.output) / "cache", progress)
    builder.write_proposals(arguments.proposals, rows)
    without = [row for row in rows if row.changes is None]
    print(f"{arguments.proposals}: {len(rows) - len(without):,} proposals, {len(without):,} pairs without")
    for row in without[:5]:
        print(printable(f"  {row.id}: {row.reason}"))
    print("check each, set approved and annotator, then: ground-truth --step freeze")


def asked_of(endpoint: "Endpoint") -> str:
    return f"{endpoint.url}, {endpoint.model}"


def freeze_truth(benchmark: "Benchmark", arguments: Namespace) -> None:
    from editcaption_mega.evaluation import ground_truth as builder

    if not arguments.output:
        raise cli.ArgumentError("--step freeze writes ground truth: give --output FILE.json")
    with before_work():
        rows = builder.read_proposals(arguments.proposals)
    written = builder.frozen(benchmark, rows)["hash"]
    if not arguments.dry_run:
        written = builder.freeze(benchmark, rows, arguments.output)
    print(f"{arguments.output}: ground truth of {len(benchmark):,} pairs, hash {written}")


def check_in_label_studio(settings: EvaluationSettings, benchmark: "Benchmark", arguments: Namespace) -> None:
    from editcaption_mega.evaluation.ground_truth import read_proposals, write_proposals
    from editcaption_mega.evaluation.label_studio.change_tasks import pull_proposals, push_proposals

    if not arguments.label_studio:
        raise cli.ArgumentError(f"--step {arguments.step} needs --label-studio URL")
    title = arguments.project or f"ground truth {benchmark.name}"
    with before_work():
        rows = read_proposals(arguments.proposals)
    if arguments.dry_run:
        what = "at most {:,} new tasks" if arguments.step == "push" else "what people made of {:,} proposals"
        return print(f"{arguments.label_studio}: project {title}, {what.format(len(rows))}")
    if arguments.step == "push":
        pushed = push_proposals(server_of(settings, arguments), title, benchmark, rows, progress)
        return print(f"{arguments.label_studio}: {pushed.new:,} new tasks, {pushed.existing:,} were there")
    rows = pull_proposals(server_of(settings, arguments), title, rows)
    write_proposals(arguments.proposals, rows)
    approved = sum(row.approved for row in rows)
    print(f"{arguments.proposals}: {approved:,} of {len(rows):,} approved; all must be before it can be frozen")
