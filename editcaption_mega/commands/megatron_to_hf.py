"""Convert a Megatron checkpoint into a Hugging Face folder that transformers loads."""

import math
import os
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from editcaption_mega import cli
from editcaption_mega.progress_display import byte_progress

from .first_reads import first_reads

EXAMPLE = """
editcaption convert megatron-to-hf --checkpoint runs/sft --output models/sft
editcaption convert megatron-to-hf --checkpoint runs/sft --output models/sft-fp32 --dtype fp32   # the master weights
editcaption convert megatron-to-hf --checkpoint runs/lora --output adapters/lora --adapter       # a PEFT folder
editcaption convert megatron-to-hf --checkpoint runs/lora --output models/lora                   # added to its weights
"""


def main(argv: Sequence[str]) -> None:
    arguments = _arguments(argv)
    # Of a checkpoint of a run not every file is needed; those of a conversion have this name.
    with first_reads(sorted(arguments.checkpoint.glob("weights-*.safetensors"))):
        from editcaption_mega.conversion.convert import export_adapter, megatron_to_hf, merge_adapter
        from editcaption_mega.conversion.trained_adapter import adapter_base, has_adapters

    of_adapters = arguments.adapter or arguments.base or has_adapters(arguments.checkpoint)
    if of_adapters and not arguments.base and os.environ.get("RANK", "0") == "0":
        if base := adapter_base(arguments.checkpoint)[0]:
            print(f"the adapters are on {base}, as {arguments.checkpoint} says")
    if arguments.adapter:
        dtype = cli.conversion(arguments)["dtype"]
        export_adapter(arguments.checkpoint, arguments.output, base=arguments.base, dtype=dtype)
        print(f"{arguments.output} is written: adapters, which peft and vLLM load beside the weights that they are on")
        return
    if of_adapters:
        merge_adapter(
            arguments.checkpoint,
            arguments.output,
            base=arguments.base,
            max_file_bytes=int(arguments.max_file_gib * 2**30),
            **cli.conversion(arguments),
            progress=byte_progress,
        )
        return
    megatron_to_hf(
        arguments.checkpoint,
        arguments.output,
        max_file_bytes=int(arguments.max_file_gib * 2**30),
        **cli.conversion(arguments),
        progress=byte_progress,
    )


def _arguments(argv: Sequence[str]) -> Namespace:
    """Raises ArgumentError."""
    parser = cli.argument_parser(
        "Convert a Megatron checkpoint (or the newest one of a run folder, also while the run goes on) into a Hugging "
        "Face folder that transformers loads. Processes share the files, and the same command goes on where one was "
        "killed. Under torchrun the ranks share them too. Adapters (LoRA) are added to the weights that they were "
        "trained on, or written as a PEFT folder.",
        EXAMPLE,
    )
    parser.add_argument("--checkpoint", required=True, type=Path, metavar="DIR", help="checkpoint or run folder")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="new Hugging Face folder")
    parser.add_argument("--max-file-gib", type=float, default=5.0, help="largest safetensors file (default 5)")
    parser.add_argument(
        "--adapter", action="store_true", help="write adapters alone, as a PEFT folder, which peft and vLLM load"
    )
    parser.add_argument(
        "--base",
        type=Path,
        metavar="DIR",
        help="of adapters: folder, checkpoint or run of the weights that they are on (default: as the run had it, "
        "or as adapter_config.json of a PEFT folder has it)",
    )
    cli.add_conversion_arguments(parser)
    arguments = parser.parse_args(argv)
    # NaN is not above anything; less than a byte is nothing.
    if not 2**-30 <= arguments.max_file_gib < math.inf:
        raise cli.ArgumentError(f"--max-file-gib is {arguments.max_file_gib:g}: give a size above 0, in GiB")
    if arguments.adapter:
        if arguments.verify:
            raise cli.ArgumentError("--adapter writes a small folder, which --verify does not compare: leave one out")
        if arguments.max_file_gib != parser.get_default("max_file_gib"):
            raise cli.ArgumentError("--adapter writes one file, which --max-file-gib does not divide: leave one out")
        if arguments.workers:
            raise cli.ArgumentError("--adapter writes one small file, which --workers do not share: leave one out")
    return arguments
