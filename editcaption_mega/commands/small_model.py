"""A small random Qwen3-VL with a tokenizer of its own, to try training, serving and captioning without weights."""

import math
from collections.abc import Sequence
from pathlib import Path

from editcaption_mega import cli
from editcaption_mega.settings import SmallModel, before_work, load_settings

EXAMPLE = """
editcaption small-model --output models/small
editcaption small-model experts=0 hidden_size=64 num_layers=2 --output models/dense
editcaption small-model vocabulary=151936 --texts texts.txt --output models/wide
"""


def main(argv: Sequence[str]) -> None:
    sizes = ", ".join(f"{name}={value}" for name, value in vars(SmallModel()).items())
    parser = cli.argument_parser(
        "Write a Hugging Face folder of a random Qwen3-VL of any size, with experts or dense (experts=0), in fp32. "
        "Its tokenizer is trained on the spot, on the synthetic world's instructions and the prompt.",
        EXAMPLE,
    )
    parser.add_argument("sizes", nargs="*", metavar="key=value", help=f"sizes: {sizes}")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="new folder")
    parser.add_argument("--texts", type=Path, metavar="FILE", help="what the tokenizer learns from, one text a line")
    parser.add_argument("--tokens", type=cli.positive, default=640, metavar="N", help="of the tokenizer (default 640)")
    parser.add_argument("--prompt", default="", metavar="FILE", help="another prompt file, as in training")
    arguments = parser.parse_args(argv)
    size = load_settings(None, arguments.sizes, SmallModel)
    from editcaption_mega.data.text.prompt import Prompt

    with before_work():
        if arguments.output.exists():
            raise ValueError(f"{arguments.output} is there already: choose another folder, nothing was written")
        prompt = Prompt.load(arguments.prompt)
        texts = arguments.texts.read_text(encoding="utf-8").splitlines() if arguments.texts else []
    from editcaption_mega.data.synthetic import WorldSettings, corpus_texts
    from editcaption_mega.model.random_folder import write_small_folder

    texts = texts or corpus_texts(WorldSettings(), seed=1, count=2000)
    write_small_folder(arguments.output, size, prompt, texts, vocabulary=arguments.tokens)
    weights = _weight_count(arguments.output)
    print(f"{arguments.output}: {weights:,} random weights, {4 * weights / 2**20:,.1f} MiB")


def _weight_count(folder: Path) -> int:
    """Of all tensors: a file has a header, too."""
    from safetensors import safe_open

    count = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            count += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return count
