"""Simulated annotators answer the tasks of a folder; a process of its own, so that it can be killed as people's tools
are."""

from pathlib import Path

from editcaption_mega import cli
from editcaption_mega.progress_display import progress


def main(argv):
    parser = cli.argument_parser(
        "Answer the tasks of a folder as annotators would who know the truth and err at a stated rate.",
        example="python tools/demos/file_answers.py --folder people/refine --truth truth.jsonl --output answers.jsonl",
    )
    parser.add_argument("--folder", required=True, type=Path, metavar="DIR", help="folder of tasks")
    parser.add_argument("--truth", required=True, type=Path, metavar="FILE.jsonl", help="what is true of each pair")
    parser.add_argument("--annotators", type=cli.positive, default=2, metavar="N", help="each answers every task")
    parser.add_argument("--error-rate", type=cli.between(0, 1), default=0.1, metavar="SHARE", help="default 0.1")
    parser.add_argument("--output", type=Path, metavar="FILE.jsonl", help="file of answers to write")
    parser.add_argument("--label-studio", default="", metavar="URL", help="file them in its project instead")
    parser.add_argument("--project", default="", metavar="TITLE")
    arguments = parser.parse_args(argv)
    if bool(arguments.output) == bool(arguments.label_studio):
        raise cli.ArgumentError("give --output FILE.jsonl or --label-studio URL, one of the two")
    from editcaption_mega.curation.demo.filing import file_as_jsonl, file_in_label_studio
    from editcaption_mega.curation.demo.known_truth import read_truth
    from editcaption_mega.curation.demo.simulated_people import SimulatedAnnotator
    from editcaption_mega.evaluation.label_studio.api import LabelStudio

    truth = read_truth(arguments.truth)
    annotators = [
        SimulatedAnnotator(number, arguments.error_rate, truth) for number in range(1, arguments.annotators + 1)
    ]
    if arguments.output:
        count = file_as_jsonl(arguments.folder, annotators, arguments.output)
    else:
        server = LabelStudio.from_environment(arguments.label_studio)
        count = file_in_label_studio(server, arguments.project, arguments.folder, annotators, progress)
    print(f"{arguments.folder}: {count:,} answers of {arguments.annotators} annotators filed")


if __name__ == "__main__":
    cli.run(main)
