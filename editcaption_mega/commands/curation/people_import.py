"""`editcaption curate refine-import` and `preference-import`: people's answers -> shards to train on."""

from argparse import Namespace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from editcaption_mega import cli
from editcaption_mega.progress_display import progress
from editcaption_mega.settings import before_work
from editcaption_mega.words import counted, printable

from .people_export import add_server_arguments, server_of, title_of

if TYPE_CHECKING:
    from editcaption_mega.curation.people.opinion_shards import PeopleCounts

_WHAT = {
    "refine": "shards with the refined instructions, to train SFT on",
    "preference": "shards of preference pairs: the correction as chosen, the model's text as rejected",
}
_SHOWN = 10  # refused answers in the output


def add_parser(commands: cli.Subparsers) -> None:
    for form, what in _WHAT.items():
        command = cli.add_command(
            commands,
            f"{form}-import",
            example=f"editcaption curate {form}-import --shards data/pool --folder data/{form} --answers answers.jsonl "
            f"--output data/{form}_pairs",
            help=f"people's answers -> {what}",
            description=f"People's answers -> {what}. What contradicts itself or its task is refused in a sentence "
            "(OUTPUT.refused.jsonl; exit code 1), and the rest is used; several answers to a task become one by the "
            "rule of docs/curation.md.",
        )
        command.add_argument("--shards", required=True, nargs="+", metavar="DIR", help="those of the export")
        command.add_argument("--folder", required=True, nargs="+", type=Path, metavar="DIR", help="folders of tasks")
        command.add_argument("--answers", nargs="+", type=Path, default=[], metavar="FILE.jsonl", help="answers")
        add_server_arguments(command)
        command.add_argument("--output", required=True, type=Path, metavar="DIR", help="new folder of shards")
        command.set_defaults(run=run, form=form)


def run(arguments: Namespace) -> int:
    from editcaption_mega.curation.people.opinion_shards import import_pair_answers
    from editcaption_mega.curation.people.people_projects import pull_pair_answers
    from editcaption_mega.data import open_shards
    from editcaption_mega.data.shards.writer import refuse_used
    from editcaption_mega.evaluation.human.filed_answers import read_answers

    if bool(arguments.label_studio) == bool(arguments.answers):
        raise cli.ArgumentError("give --answers FILE.jsonl or --label-studio URL, one of the two")
    with before_work():
        reader = open_shards(arguments.shards)
        refuse_used(arguments.output)
        answers = [answer for path in arguments.answers for answer in read_answers(path)]
    if arguments.label_studio:
        answers = pull_pair_answers(server_of(arguments), title_of(arguments))
    counts = import_pair_answers(
        reader, arguments.folder, arguments.form, answers, arguments.output,
        imported=datetime.now(UTC).isoformat(timespec="seconds"), progress=progress,
    )  # fmt: skip
    _say(arguments.output, counts)
    return 1 if counts.refused else 0


def _say(output: Path, counts: "PeopleCounts") -> None:
    for answer in counts.refused[:_SHOWN]:
        print(printable(f"refused: {answer.where}, task {answer.task}, annotator {answer.annotator}: {answer.reason}"))
    more = f"; {len(counts.refused):,} refused, all in {output}.refused.jsonl" if counts.refused else ""
    print(f"{output}: {counted(counts.written, 'pair')} from {counted(counts.accepted, 'answer')}{more}")
    print("  tasks: " + ", ".join(f"{count:,} {verdict}" for verdict, count in counts.verdicts.items()))
    for tag, count in counts.tags.most_common():
        print(f"  {count:,} with {tag}")
    for name, quality in counts.quality["annotators"].items():
        agreement, seconds = quality["verdict_agreement"], quality["seconds"]
        with_others = "no overlap" if agreement is None else f"{agreement:.0%} of {quality['compared']} as the others"
        time = "" if seconds is None else f", {seconds:.0f} s a task"
        print(
            printable(f"  {name}: {quality['answers']:,} answers, {quality['refused']:,} refused, {with_others}{time}")
        )
