"""Convert a Hugging Face Qwen3-VL folder into a Megatron checkpoint that loads at any layout."""

from collections.abc import Sequence
from pathlib import Path

from editcaption_mega import cli
from editcaption_mega.progress_display import byte_progress
from editcaption_mega.settings import before_work

from .first_reads import first_reads

EXAMPLE = """
editcaption convert hf-to-megatron --hf models/qwen3-vl-2b --output checkpoints/qwen3-vl-2b
editcaption convert hf-to-megatron --hf models/qwen3-vl-2b --output checkpoints/qwen3-vl-2b --verify   # what is there
"""


def main(argv: Sequence[str]) -> None:
    parser = cli.argument_parser(
        "Convert a Hugging Face Qwen3-VL folder (bf16, fp16, fp32, or FP8 with its scales) into a Megatron checkpoint "
        "that loads at any layout. No model is built; processes share the files, and the same command goes on where "
        "one was killed. Under torchrun the ranks share them too.",
        EXAMPLE,
    )
    parser.add_argument("--hf", required=True, type=Path, metavar="DIR", help="Hugging Face folder")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="new checkpoint folder")
    cli.add_conversion_arguments(parser)
    cli.add_layout_arguments(parser)
    arguments = parser.parse_args(argv)
    parallel = cli.layout(arguments)
    with first_reads(sorted(arguments.hf.glob("*.safetensors"))):
        from editcaption_mega.conversion.convert import hf_to_megatron, refuse_existing, source_architecture
        from editcaption_mega.model.layout_check import check_layout

    # The checkpoint is the same for every layout; naming one checks that the model can be trained with it.
    with before_work():
        if not arguments.verify:
            refuse_existing(arguments.output)
        check_layout(source_architecture(arguments.hf), parallel)
    hf_to_megatron(arguments.hf, arguments.output, **cli.conversion(arguments), progress=byte_progress)
