"""Two pictures -> the instruction that leads from one to the other."""

import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from editcaption_mega import cli
from editcaption_mega.settings import EndpointSettings, PixelLimits, before_work

if TYPE_CHECKING:
    from editcaption_mega.inference.endpoint.address import Endpoint

EXAMPLE = """
editcaption caption before.jpg after.jpg --model models/sft
editcaption caption before.jpg after.jpg --url http://localhost:8000/v1 --model Qwen/Qwen3-VL-8B-Instruct
"""


def main(argv: Sequence[str]) -> int:
    parser = cli.argument_parser(
        "Have a model write the instruction that leads from one picture to another, and print it. The model is a "
        "Hugging Face folder of a Qwen3-VL, or a PEFT folder of adapters on one (in this process), or whatever is "
        "served at --url.",
        EXAMPLE,
    )
    parser.add_argument("source", metavar="SOURCE", help="the picture before the edit")
    parser.add_argument("target", metavar="TARGET", help="the picture after it")
    parser.add_argument(
        "--model", required=True, metavar="DIR", help="Hugging Face or PEFT folder; with --url: its name there"
    )
    parser.add_argument("--url", default="", help="an OpenAI-compatible address, up to and with /v1")
    parser.add_argument("--key-env", default="", metavar="NAME", help="environment variable with the address's key")
    parser.add_argument("--prompt", type=Path, metavar="FILE", help="another prompt file, as in training")
    parser.add_argument("--max-tokens", type=cli.positive, default=256, metavar="N", help="(default %(default)s)")
    parser.add_argument(
        "--temperature", type=cli.between(0, 100), default=0.0, metavar="T", help="default 0: the likeliest tokens"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of what is drawn above temperature 0")
    pixels = PixelLimits()
    for name, value in (("--min-pixels", pixels.min_pixels), ("--max-pixels", pixels.max_pixels)):
        parser.add_argument(name, type=cli.positive, default=value, metavar="N", help="as in training")
    return run(parser.parse_args(argv))


def run(arguments: Namespace) -> int:
    limits = PixelLimits(min_pixels=arguments.min_pixels, max_pixels=arguments.max_pixels)
    limits.check_pixels("pictures")
    if arguments.key_env and not arguments.url:
        raise cli.ArgumentError("--key-env is of --url: give both, or neither")
    from editcaption_mega.data.text.prompt import Prompt
    from editcaption_mega.inference.own_pictures import (
        Captioner,
        CaptionOptions,
        PictureFile,
        ask_for_caption,
        check_model_name,
    )

    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # what is printed is the instruction
    options = CaptionOptions(
        limits, arguments.prompt or "", arguments.max_tokens, arguments.temperature, arguments.seed
    )
    with before_work():
        pictures = PictureFile.read(arguments.source), PictureFile.read(arguments.target)
        Prompt.load(options.prompt)
        endpoint = endpoint_of(arguments, limits) if arguments.url else None
        if endpoint is None:
            check_model_name(arguments.model)
            captioner = Captioner(arguments.model, options)
        else:
            endpoint.secret()  # that the variable holds one
    if endpoint is None:
        answer = captioner.answer(*pictures)
    else:
        answer = ask_for_caption(endpoint, *pictures, options)
    if not answer.text:
        raise ValueError(f"the model wrote no instruction: {answer.reason}")
    print(answer.text)
    if answer.reason:
        print(f"note: {answer.reason}", file=sys.stderr)
    return 0


def endpoint_of(arguments: Namespace, limits: PixelLimits) -> "Endpoint":
    from editcaption_mega.inference.endpoint.address import Endpoint

    return Endpoint.of(
        EndpointSettings(url=arguments.url, model=arguments.model, api_key_env=arguments.key_env), limits
    )
