"""Log-probabilities of every answer in a set of shards, under any layout."""

import argparse
from pathlib import Path

from editcaption_mega import cli
from editcaption_mega.settings import DataSettings, JobSettings, ModelSettings, TrainingSettings


def main(argv):
    parser = cli.argument_parser(
        "Write the log-probability of every instruction (or of chosen and rejected answers) in a set of shards, one "
        "JSON object per sample after a first line with the fingerprint.",
        example="torchrun --nproc-per-node 4 tools/log_probs.py --checkpoint runs/sft --shards data/pool "
        "--output pool.jsonl --tp 2",
    )
    parser.add_argument(
        "--checkpoint", required=True, metavar="DIR", help="Megatron checkpoint, run folder, or Hugging Face folder"
    )
    parser.add_argument("--shards", required=True, nargs="+", metavar="DIR", help="folders written by make_shards")
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
    arguments = parser.parse_args(argv)
    settings = settings_from(arguments)
    from editcaption_mega.training.log_probs import log_probs_of_shards

    log_probs_of_shards(settings, arguments.output, with_tokens=arguments.with_tokens, progress=cli.progress)


def settings_from(arguments: argparse.Namespace) -> JobSettings:
    settings = JobSettings(
        model=ModelSettings(folder="-", checkpoint=arguments.checkpoint, backend=arguments.backend),
        data=DataSettings(
            shards=arguments.shards,
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


if __name__ == "__main__":
    cli.run(main)
