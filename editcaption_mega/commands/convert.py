"""`editcaption convert`: both directions, as tools/hf_to_megatron.py and tools/megatron_to_hf.py have them."""

import sys
from collections.abc import Sequence

from editcaption_mega import cli

from . import hf_to_megatron, megatron_to_hf

DIRECTIONS = {"hf-to-megatron": hf_to_megatron, "megatron-to-hf": megatron_to_hf}
EXAMPLE = """
editcaption convert megatron-to-hf --checkpoint runs/sft --output models/sft
editcaption convert hf-to-megatron --hf models/qwen3-vl-2b --output checkpoints/qwen3-vl-2b
"""


def main(argv: Sequence[str]) -> None:
    parser = cli.argument_parser(
        "Convert between Hugging Face folders and Megatron checkpoints. DIRECTION --help says more.", EXAMPLE
    )
    parser.add_argument("direction", choices=DIRECTIONS, metavar="DIRECTION", help=" or ".join(DIRECTIONS))
    if argv and argv[0] in DIRECTIONS:  # whose own parser takes the rest, --help too
        sys.argv[0] = f"{sys.argv[0]} {argv[0]}"
        DIRECTIONS[argv[0]].main(argv[1:])
    else:
        parser.parse_args(argv)
