"""Convert a Hugging Face Qwen3-VL folder into a Megatron checkpoint that loads at any layout."""

from pathlib import Path

from editcaption_mega import cli
from editcaption_mega.settings import before_work


def main(argv):
    parser = cli.argument_parser(
        "Convert a Hugging Face Qwen3-VL folder into a Megatron checkpoint that loads at any layout. Under torchrun "
        "the ranks share the work; no model is built and each rank holds one tensor at a time.",
        example="python tools/hf_to_megatron.py --hf models/qwen3-vl-2b --output checkpoints/qwen3-vl-2b",
    )
    parser.add_argument("--hf", required=True, type=Path, metavar="DIR", help="Hugging Face folder")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="new checkpoint folder")
    cli.add_layout_arguments(parser)
    arguments = parser.parse_args(argv)
    parallel = cli.layout(arguments)
    from editcaption_mega.conversion.convert import hf_to_megatron, refuse_existing
    from editcaption_mega.model import Architecture
    from editcaption_mega.model.build import check_layout

    # The checkpoint is the same for every layout; naming one checks that the model can be trained with it.
    with before_work():
        refuse_existing(arguments.output)
        check_layout(Architecture.from_folder(arguments.hf), parallel)
    hf_to_megatron(arguments.hf, arguments.output, progress=cli.progress)


if __name__ == "__main__":
    cli.run(main)
