"""`editcaption curate filter`: which pairs stay."""

from argparse import Namespace
from pathlib import Path

from editcaption_mega import cli
from editcaption_mega.progress_display import progress
from editcaption_mega.settings import before_work

_RULES = (
    "rules, in their order: success>=6, ssim<q0.9 (a quantile), success>=p0.95 (a threshold for a precision, from "
    "--labels), identical=false, edit_type=add|remove, lint:none, lint:!vague; a ? at the end lets pairs without a "
    "value pass"
)

EXAMPLE = """
editcaption curate filter --shards data/pool --columns data/measures.jsonl data/lint.jsonl \\
    --rules identical=false lint:none --output data/kept
"""


def add_parser(commands: cli.Subparsers) -> None:
    command = cli.add_command(
        commands,
        "filter",
        example=EXAMPLE,
        help="keep what rules on columns, thresholds from labels and quotas say; new shards and a page",
        description="Write new shards of the pairs that pass all rules, with the rules and values in their provenance, "
        "and beside them OUTPUT.html (survival, histograms, contact sheets), OUTPUT.survival.json and "
        "OUTPUT.verdicts.jsonl.",
    )
    command.add_argument("--shards", required=True, nargs="+", metavar="DIR", help="folders of shards")
    command.add_argument("--columns", nargs="*", default=[], type=Path, metavar="FILE", help="files of columns")
    command.add_argument("--rules", nargs="*", default=[], metavar="RULE", help=_RULES)
    command.add_argument(
        "--instructions", type=Path, metavar="FILE", help="a file of columns whose `instruction` becomes the pair's"
    )
    command.add_argument("--best", metavar="COLUMN", help="by which one of a pair's samples is chosen: the highest")
    command.add_argument(
        "--labels", type=Path, metavar="FILE", help='JSONL of {"id", "label": true or false} for rules of a precision'
    )
    command.add_argument("--quotas", metavar="SHARES", help="as semantic=25,stylistic=25,structural=50, of what passes")
    command.add_argument("--count", type=cli.positive, metavar="N", help="pairs in all, with --quotas (default: most)")
    command.add_argument("--seed", type=int, metavar="N", help="of what --quotas draw (default 0)")
    command.add_argument("--output", required=True, type=Path, metavar="DIR", help="new folder of shards")
    command.add_argument("--only-page", action="store_true", help="everything but the shards, to try rules")
    command.set_defaults(run=run)


def run(arguments: Namespace) -> None:
    from editcaption_mega.curation.filters.calibration import read_labels
    from editcaption_mega.curation.filters.decisions import Quotas
    from editcaption_mega.curation.filters.filter_rules import parse_rules
    from editcaption_mega.curation.filters.filtering import FilterPlan, filter_pairs
    from editcaption_mega.curation.filters.quotas import parse_quotas
    from editcaption_mega.data.shards.reader import open_shards

    with before_work():
        shares = parse_quotas(arguments.quotas or "")
    if arguments.quotas is not None and not shares:
        raise cli.ArgumentError(
            "--quotas is empty: give shares, as semantic=25,stylistic=25,structural=50, or leave it"
        )
    quotas = Quotas(shares, arguments.count, arguments.seed or 0)
    if arguments.count and not quotas.shares:
        raise cli.ArgumentError(
            "--count is shared out by --quotas: give them, as semantic=25,stylistic=25,structural=50"
        )
    if arguments.seed is not None and not quotas.shares:
        raise cli.ArgumentError("--seed is of what --quotas draw, and nothing else draws: give both, or neither")
    with before_work():
        rules = parse_rules(arguments.rules)
    if arguments.labels and not any(rule.kind == "precision" for rule in rules):
        raise cli.ArgumentError("--labels are for rules of a precision, such as success>=p0.95: give one, or leave it")
    if not rules and not quotas.shares:
        raise cli.ArgumentError("nothing to filter by: give --rules or --quotas")
    with before_work():
        labels = read_labels(arguments.labels) if arguments.labels else {}
        shards = open_shards(arguments.shards)
    plan = FilterPlan(rules, arguments.columns, arguments.instructions, arguments.best, labels, quotas)
    decision = filter_pairs(shards, plan, arguments.output, only_page=arguments.only_page, progress=progress)
    for stage in decision.stages:
        at = "" if stage.threshold is None else f" (threshold {stage.threshold:.6g})"
        print(f"  {stage.before - stage.dropped:>10,} left, {stage.dropped:,} dropped by {stage.rule}{at}")
        if stage.calibration:
            measured = stage.calibration.measured
            low, high = measured.interval
            precision = f"{measured.precision:.3f} ({low:.3f} to {high:.3f})"
            print(f"             precision {precision} on labels that chose nothing")
    print(f"{arguments.output}: {len(decision.kept):,} of {len(decision.dropped_at):,} pairs stay")
