"""The commands of tools/evaluate.py in which people take part: tasks out, verdicts in, ground truth."""

from pathlib import Path

from editcaption_mega import cli
from editcaption_mega.words import printable


def add_people_arguments(export, imported, truth) -> None:
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
    export.add_argument("--folder", required=True, type=Path, metavar="DIR", help="tasks and pictures for annotators")
    export.add_argument("--pairs", type=int, metavar="N", help="the first N pairs only")
    export.add_argument("--annotators", type=int, default=1, metavar="N", help="Label Studio: verdicts wanted per task")
    export.add_argument("--document-root", type=Path, metavar="DIR", help="Label Studio: its folder of local files")
    imported.add_argument("--rule", choices=("majority", "worst"), default="majority", help="where annotators differ")
    imported.add_argument("--answers", type=Path, metavar="FILE.jsonl", help="answers, when not from Label Studio")
    imported.add_argument("--output", required=True, type=Path, metavar="FILE.jsonl", help="verdicts")
    truth.add_argument("--step", required=True, choices=("propose", "push", "pull", "freeze"))
    truth.add_argument("--describe", nargs="+", default=[], metavar="MODEL", help="propose: models that describe")
    truth.add_argument("--merge", default="", metavar="MODEL", help="propose: the model that merges")
    truth.add_argument("--proposals", required=True, type=Path, metavar="FILE.jsonl")
    truth.add_argument("--output", type=Path, metavar="FILE.json", help="freeze: the ground truth")


def human_export(settings, benchmark, arguments) -> None:
    from editcaption_mega.evaluation.human.tasks import export_tasks
    from editcaption_mega.evaluation.run.generation import written_instructions

    texts = written_instructions(settings, [benchmark])[benchmark.name]
    rows = [row for by_id in texts.values() for row in by_id.values()]
    ids = benchmark.ids[: arguments.pairs] if arguments.pairs else None
    made = export_tasks(benchmark, rows, arguments.folder, arguments.key, ids=ids, progress=cli.progress)
    print(f"{arguments.folder}: {made.tasks:,} tasks; {len(made.left_out):,} pairs have no instruction to judge")
    print(f"{arguments.key} says which task is which model: keep it from annotators")
    if arguments.label_studio:
        from editcaption_mega.evaluation.label_studio.verdict_tasks import push_tasks

        pushed = push_tasks(
            server_of(settings, arguments), arguments.folder, title_of(arguments), annotators=arguments.annotators,
            document_root=arguments.document_root, progress=cli.progress,
        )  # fmt: skip
        print(
            f"{arguments.label_studio}: project {pushed.project}, {pushed.new:,} new tasks, {pushed.existing:,} there"
        )


def human_import(settings, benchmark, arguments) -> int:
    from editcaption_mega.evaluation.human.tasks import Key
    from editcaption_mega.evaluation.human.verdicts import adjudicate, import_answers, read_answers, severity_table
    from editcaption_mega.evaluation.record_files import write_records

    if bool(arguments.label_studio) == bool(arguments.answers):
        raise cli.ArgumentError("give --answers FILE.jsonl or --label-studio URL, one of the two")
    key = Key.read(arguments.key)
    if arguments.label_studio:
        from editcaption_mega.evaluation.label_studio.verdict_tasks import pull_answers

        answers = pull_answers(server_of(settings, arguments), title_of(arguments))
    else:
        answers = read_answers(arguments.answers)
    found = import_answers(answers, key)
    accepted = [verdict for verdict in found.accepted if verdict.benchmark == arguments.benchmark]
    write_records(arguments.output, accepted)
    refused = arguments.output.with_name(arguments.output.name + ".refused")
    write_records(refused, found.refused)
    for one in found.refused[:10]:
        print(printable(f"refused: {one.where}, task {one.task}, annotator {one.annotator}: {one.reason}"))
    told = f"; {len(found.refused):,} refused, all in {refused}" if found.refused else ""
    print(f"{arguments.output}: {len(accepted):,} verdicts{told}; {len(found.unanswered):,} tasks without an answer")
    for row in severity_table(adjudicate(accepted, arguments.rule)):
        shares = ", ".join(f"{severity} {row.percent(severity):.2f} %" for severity in row.counts)
        print(f"  {row.model}: {shares} (n = {row.n})")
    return 1 if found.refused else 0


def server_of(settings, arguments):
    from editcaption_mega.evaluation.label_studio.api import LabelStudio

    log = Path(settings.output) / "cache"
    return LabelStudio.from_environment(arguments.label_studio, arguments.token_env, log=log)


def title_of(arguments) -> str:
    return arguments.project or f"editcaption {arguments.benchmark}"


def ground_truth(settings, benchmark, arguments) -> None:
    from editcaption_mega.evaluation import ground_truth as builder
    from editcaption_mega.inference.endpoint.address import Endpoint

    if arguments.step == "freeze":
        if not arguments.output:
            raise cli.ArgumentError("--step freeze writes ground truth: give --output FILE.json")
        written = builder.freeze(benchmark, builder.read_proposals(arguments.proposals), arguments.output)
        return print(f"{arguments.output}: ground truth of {len(benchmark):,} pairs, hash {written}")
    if arguments.step in ("push", "pull"):
        return check_in_label_studio(settings, benchmark, arguments)
    served = {
        model.name: Endpoint.of(model.endpoint, settings.generation)
        for model in settings.models
        if model.origin == "endpoint"
    }
    for name in [*arguments.describe, arguments.merge]:
        if name not in served:
            raise cli.ArgumentError(
                f"{name or '--merge'} names no model of the settings with an endpoint: {list(served)}"
            )
    rows = builder.propose(
        benchmark, {name: served[name] for name in arguments.describe}, served[arguments.merge],
        Path(settings.output) / "cache", cli.progress,
    )  # fmt: skip
    builder.write_proposals(arguments.proposals, rows)
    without = [row for row in rows if row.changes is None]
    print(f"{arguments.proposals}: {len(rows) - len(without):,} proposals, {len(without):,} pairs without")
    for row in without[:5]:
        print(printable(f"  {row.id}: {row.reason}"))
    print("check each, set approved and annotator, then: ground-truth --step freeze")


def check_in_label_studio(settings, benchmark, arguments) -> None:
    from editcaption_mega.evaluation.ground_truth import read_proposals, write_proposals
    from editcaption_mega.evaluation.label_studio.change_tasks import pull_proposals, push_proposals

    if not arguments.label_studio:
        raise cli.ArgumentError(f"--step {arguments.step} needs --label-studio URL")
    title = arguments.project or f"ground truth {benchmark.name}"
    rows = read_proposals(arguments.proposals)
    if arguments.step == "push":
        pushed = push_proposals(server_of(settings, arguments), title, benchmark, rows, cli.progress)
        return print(f"{arguments.label_studio}: {pushed.new:,} new tasks, {pushed.existing:,} were there")
    rows = pull_proposals(server_of(settings, arguments), title, rows)
    write_proposals(arguments.proposals, rows)
    approved = sum(row.approved for row in rows)
    print(f"{arguments.proposals}: {approved:,} of {len(rows):,} approved; all must be before it can be frozen")
