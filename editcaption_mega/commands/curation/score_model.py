"""`editcaption curate score model`: what a scorer behind an endpoint says of each instruction."""

from argparse import Namespace
from pathlib import Path

from editcaption_mega import cli
from editcaption_mega.progress_display import progress
from editcaption_mega.settings import ScoreSettings, before_work, load_settings

EXAMPLE = "editcaption curate score model score_editscore shards=[data/pool] output=data/scores.jsonl"


def add_parser(scorers: cli.Subparsers) -> None:
    command = cli.add_command(
        scorers,
        "model",
        example=EXAMPLE,
        help="EditScore or any other model that judges pictures and instruction, through a template of its prompt",
        description="Ask a model about every instruction: the template's columns, or reason; each pass and each reply "
        "is kept. A killed run goes on with the same command, which also asks again for what has no score.",
    )
    cli.add_settings_arguments(command, "score")
    command.add_argument("--part", default="", metavar="K/N", help="do part K (from 0) of N; the last to end merges")
    command.set_defaults(run=run)


def run(arguments: Namespace) -> None:
    part = cli.part_of(arguments.part)
    settings = load_settings(arguments.config, arguments.overrides, ScoreSettings)
    from editcaption_mega.curation.scores.model_scores import check_scoring, score_with_model, scored_counts
    from editcaption_mega.data import open_shards
    from editcaption_mega.evaluation.generate import Part

    with before_work():
        reader = open_shards(settings.shards)
        check_scoring(settings, reader)
    whole, meter = score_with_model(settings, reader, part=part or Part(), progress=progress)
    print(f"made now: {meter.made:,} {meter}")
    if not whole:
        return print(f"part {arguments.part} is made; the part that ends last writes {settings.output}")
    scored, reasons = scored_counts(Path(settings.output))
    print(f"{settings.output}: {scored:,} scores, {reasons.total():,} without one")
    cli.print_counts("unscored (the same command asks again, but for refusals and texts that do not exist)", reasons)
    if not scored:
        raise ValueError(f"nothing has a score; {settings.output} says why")
