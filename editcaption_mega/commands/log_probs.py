"""Log-probabilities of every answer in a set of shards, under any layout."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from editcaption_mega import cli
from editcaption_mega.progress_display import progress
from editcaption_mega.settings import DataSettings, JobSettings, ModelSettings, TrainingSettings, before_work

if TYPE_CHECKING:
    from editcaption_mega.curation.scores.scored_texts import CandidateTexts


def main(argv: Sequence[str]) -> int | None:
    parser = cli.argument_parser(
        "Write the log-probability of every instruction (or of chosen and rejected answers) in a set of shards, one "
        "JSON object per sample after a first line with the fingerprint.",
        example="torchrun --nproc-per-node 4 -m editcaption_mega log-probs --checkpoint runs/sft --shards data/pool "
        "--output pool.jsonl --tp 2",
    )
    parser.add_argument(
        "--checkpoint",
        required=True,
        metavar="DIR",
        help="Megatron checkpoint, run folder or Hugging Face folder; adapters as a run or a PEFT folder",
    )
    parser.add_argument("--shards", required=True, nargs="+", metavar="DIR", help="folders written by make_shards")
    parser.add_argument(
        "--id-prefixes", nargs="+", default=[], metavar="P", help="before the ids of each folder, as data.id_prefixes"
    )
    parser.add_argument("--output", required=True, type=Path, metavar="FILE.jsonl", help="new file")
    parser.add_argument("--with-tokens", action="store_true", help="add input_ids and response_start")
    cli.add_layout_arguments(parser)
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="fp32")
    data = DataSettings()
    parser.add_argument(
        "--sequence-length", type=int, default=data.sequence_length, metavar="N", help="tokens in a row"
    )
    parser.add_argument("--min-pixels", type=int, default=data.min_pixels, metavar="N")
    parser.add_argument("--max-pixels", type=int, default=data.max_pixels, metavar="N")
    parser.add_argument("--prompt", default="", metavar="FILE", help="another prompt file, as in training")
    add_scoring_arguments(parser)
    arguments = parser.parse_args(argv)
    settings = settings_from(arguments)
    texts = texts_from(arguments)
    from editcaption_mega.training.log_probs import log_probs_of_shards

    ending = log_probs_of_shards(
        settings, arguments.output, with_tokens=arguments.with_tokens, view=arguments.view, texts=texts,
        progress=progress,
    )  # fmt: skip
    return cli.stopped_code(ending.signal)


def add_scoring_arguments(parser: argparse.ArgumentParser) -> None:
    scoring = parser.add_argument_group("scores for data construction (editcaption curate score log-probs reads them)")
    scoring.add_argument(
        "--view", choices=("given", "swapped", "mirrored"), default="given",
        help="the pictures as they are (default), source and target swapped, or both mirrored",
    )  # fmt: skip
    scoring.add_argument(
        "--texts", type=Path, metavar="FILE.jsonl", help="score the instructions of this file of columns instead"
    )
    scoring.add_argument(
        "--opposites", action="store_true", help="score each text beside the one with every direction turned"
    )
    scoring.add_argument("--part", default="", metavar="K/N", help="of the texts, every N-th pair from K on (from 0)")


def texts_from(arguments: argparse.Namespace) -> "CandidateTexts | None":
    """The texts to score; None: the shards' own answers, as training has them."""
    if not (arguments.texts or arguments.opposites):
        if arguments.part:
            raise cli.ArgumentError("--part divides the texts of --texts or --opposites: give one of them")
        return None
    if arguments.id_prefixes:
        raise cli.ArgumentError(
            "--id-prefixes is for references of training: texts are joined with pairs by the ids of the shards"
        )
    from editcaption_mega.curation.columns import ColumnFile
    from editcaption_mega.curation.scores.scored_texts import CandidateTexts
    from editcaption_mega.data import open_shards

    part = cli.part_of(arguments.part)
    with before_work():
        shards = open_shards(arguments.shards)
        captions = ColumnFile(arguments.texts, shards) if arguments.texts else None
        return CandidateTexts(shards, captions, opposites=arguments.opposites, part=part)


def settings_from(arguments: argparse.Namespace) -> JobSettings:
    settings = JobSettings(
        model=ModelSettings(folder="-", checkpoint=arguments.checkpoint, backend=arguments.backend),
        data=DataSettings(
            shards=arguments.shards,
            id_prefixes=arguments.id_prefixes,
            sequence_length=arguments.sequence_length,
            min_pixels=arguments.min_pixels,
            max_pixels=arguments.max_pixels,
            prompt=arguments.prompt,
        ),
        parallel=cli.layout(arguments),
        training=TrainingSettings(output="-", precision=arguments.precision),
    )
    settings.validate()
    return settings
