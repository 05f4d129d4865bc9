"""`editcaption curate score SCORER`: how good each instruction is, as columns."""

from editcaption_mega import cli

from . import score_agreement, score_log_probs, score_model

SCORERS = (score_model, score_log_probs, score_agreement)


def add_parser(commands: cli.Subparsers) -> None:
    command = cli.add_command(
        commands,
        "score",
        example=score_agreement.EXAMPLE,
        help="columns of scores: SCORER --help says what each gives",
        description="Columns of scores, for `filter` and `best-of`: SCORER --help says what each gives.",
    )
    scorers = command.add_subparsers(dest="scorer", required=True, metavar="SCORER")
    for scorer in SCORERS:
        scorer.add_parser(scorers)
