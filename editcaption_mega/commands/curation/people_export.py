"""`editcaption curate refine-export` and `preference-export`: tasks for people as a folder, pages, a project."""

from argparse import Namespace, _ActionsContainer
from pathlib import Path
from typing import TYPE_CHECKING

from editcaption_mega import cli
from editcaption_mega.progress_display import progress
from editcaption_mega.settings import before_work
from editcaption_mega.words import counted

if TYPE_CHECKING:
    from editcaption_mega.curation.people.drafts import Drafts
    from editcaption_mega.data.shards.reader import ShardReader
    from editcaption_mega.evaluation.label_studio.api import LabelStudio

_WHAT = {
    "refine": "drafts that people refine over both pictures (semantics, spatial relations, detail)",
    "preference": "a model's instructions that people correct, with what is wrong and how badly",
}


def add_parser(commands: cli.Subparsers) -> None:
    for form, what in _WHAT.items():
        command = cli.add_command(
            commands,
            f"{form}-export",
            example=f"editcaption curate {form}-export --shards data/pool --captions data/captions.jsonl "
            f"--folder data/{form} --page 100",
            help=f"tasks for people: {what}",
            description=f"Tasks for people: {what}. The folder has the pictures and a tasks.jsonl that any tool can "
            "read; --page adds HTML files that work from disk, --label-studio brings the tasks to a server. The same "
            "command again does what is missing.",
        )
        command.add_argument("--shards", required=True, nargs="+", metavar="DIR", help="the pairs")
        command.add_argument("--captions", type=Path, metavar="FILE.jsonl", help="columns with the texts: of `caption`")
        add_task_arguments(command)
        command.set_defaults(run=run, form=form)


def add_task_arguments(command: _ActionsContainer, *, required: bool = True) -> None:
    """What every command that makes tasks takes."""
    command.add_argument("--folder", required=required, type=Path, metavar="DIR", help="folder of tasks to write")
    command.add_argument(
        "--first", action="append", default=[], metavar="FILE:COLUMN",
        help="doubtful pairs first, by a file of columns; :low or :high after it says which end is doubtful; given "
        "several times, the mean of the ranks counts",
    )  # fmt: skip
    command.add_argument(
        "--hardness", nargs=2, metavar=("FILE:COLUMN", "FILE:COLUMN"),
        help="log-probs of the texts, and those of the pairs' own instructions: pairs first in which the former is the "
        "higher one; the difference is kept as `hardness`",
    )  # fmt: skip
    command.add_argument(
        "--hints",
        action="append",
        default=[],
        metavar="FILE:COLUMN",
        help="a column that people see",
    )
    command.add_argument("--limit", type=cli.positive, metavar="N", help="at most N tasks")
    command.add_argument("--skip", nargs="+", default=[], type=Path, metavar="DIR", help="folders of earlier batches")
    command.add_argument("--page", type=cli.positive, metavar="N", help="also an HTML file for every N tasks")
    add_server_arguments(command)
    command.add_argument("--annotators", type=cli.positive, default=1, metavar="N", help="answers wanted per task")
    command.add_argument("--document-root", type=Path, metavar="DIR", help="Label Studio's folder of local files")


def add_server_arguments(command: _ActionsContainer) -> None:
    command.add_argument("--label-studio", default="", metavar="URL", help="a Label Studio server")
    command.add_argument("--project", default="", metavar="TITLE", help="its project (default: the folder's name)")
    command.add_argument("--token-env", default="LABEL_STUDIO_API_KEY", metavar="NAME", help="variable with its token")


def run(arguments: Namespace) -> None:
    from editcaption_mega.curation.columns import ColumnFile
    from editcaption_mega.curation.people.drafts import caption_drafts, own_drafts
    from editcaption_mega.data import open_shards

    with before_work():
        reader = open_shards(arguments.shards)
        if arguments.captions:
            drafts = caption_drafts(reader, ColumnFile(arguments.captions, reader))
        elif arguments.form == "preference":
            raise cli.ArgumentError("give --captions FILE.jsonl: what the model wrote for each pair (see `caption`)")
        else:
            drafts = own_drafts(reader)
    export(arguments, reader, drafts, arguments.form)


def export(arguments: Namespace, reader: "ShardReader", drafts: "Drafts", form: str) -> None:
    """Write the folder and its pages, and push the tasks, as the arguments of `add_task_arguments` say."""
    from editcaption_mega.curation.people.doubt import AnyScreen, Hardness, Screen
    from editcaption_mega.curation.people.pair_tasks import ExportOptions, export_pair_tasks
    from editcaption_mega.curation.people.people_projects import push_pair_tasks
    from editcaption_mega.curation.people.review_page import write_pages
    from editcaption_mega.curation.people.task_records import exported_pairs

    folder, root = arguments.folder, arguments.document_root
    with before_work():
        if root is not None and root.resolve() not in folder.resolve().parents:
            raise cli.ArgumentError(f"--folder {folder} must lie in a folder of --document-root {root}")
        server = server_of(arguments) if arguments.label_studio else None
        first: list[AnyScreen] = [Screen.parse(text, reader) for text in arguments.first]
        if arguments.hardness:
            of_text, of_own = (Screen.parse(text, reader) for text in arguments.hardness)
            first.append(Hardness(of_text, of_own))
        options = ExportOptions(
            first=first,
            hints=[Screen.parse(text, reader) for text in arguments.hints],
            limit=arguments.limit,
            skip=exported_pairs(arguments.skip),
            keep_right=form != "preference",
        )
    counts = export_pair_tasks(reader, form, drafts, folder, options, progress)
    print(f"{folder}: {counted(counts.tasks, 'task')} from {counted(len(reader), 'pair')}")
    for reason, count in counts.left_out.most_common():
        print(f"  {count:,} left out: {reason}")
    if arguments.page:
        pages = write_pages(folder, arguments.page, progress)
        print(f"{folder}: {len(pages):,} pages, the first {pages[0].name}")
    if server is not None:
        pushed = push_pair_tasks(
            server, folder, title_of(arguments), annotators=arguments.annotators, document_root=root,
            progress=progress,
        )  # fmt: skip
        print(f"{arguments.label_studio}: {pushed.new:,} new tasks, {pushed.existing:,} were there")


def server_of(arguments: Namespace) -> "LabelStudio":
    from editcaption_mega.evaluation.label_studio.api import LabelStudio

    return LabelStudio.from_environment(arguments.label_studio, arguments.token_env)


def title_of(arguments: Namespace) -> str:
    folder = arguments.folder[0] if isinstance(arguments.folder, list) else arguments.folder
    return arguments.project or f"editcaption {folder.resolve().name}"
