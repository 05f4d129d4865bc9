"""`curate.py sample-rejected`: preference pairs from what a model gets wrong."""

from pathlib import Path

from editcaption_mega import cli
from editcaption_mega.settings import PixelLimits, before_work


def add_parser(commands) -> None:
    command = commands.add_parser(
        "sample-rejected",
        help="preference pairs: the model's wrong instructions as rejected, the truth as chosen",
        description="Let a model write instructions for pairs whose truth is machine-readable (the synthetic world). "
        "Wrong ones become `rejected`, with failure modes and severity, the pair's instruction `chosen`; pairs that "
        "the model gets right are marked already_correct and kept out. A killed run goes on with the same command.",
    )
    command.add_argument("--model", required=True, type=Path, metavar="DIR", help="Hugging Face folder")
    command.add_argument("--shards", required=True, nargs="+", metavar="DIR", help="folders written by make_shards")
    command.add_argument("--output", required=True, type=Path, metavar="DIR", help="new folder of preference shards")
    command.add_argument("--samples", type=int, default=1, metavar="N", help="instructions per pair (default 1)")
    command.add_argument("--temperature", type=float, default=0.0, metavar="T", help="default 0: the likeliest tokens")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--max-new-tokens", type=int, default=256, metavar="N")
    command.add_argument("--batch-size", type=int, default=32, metavar="N", help="pairs answered at once (default 32)")
    pixels = PixelLimits()
    command.add_argument("--min-pixels", type=int, default=pixels.min_pixels, metavar="N", help="as in training")
    command.add_argument("--max-pixels", type=int, default=pixels.max_pixels, metavar="N", help="as in training")
    command.add_argument("--prompt", default="", metavar="FILE", help="another prompt file, as in training")
    command.set_defaults(run=run)


def run(arguments) -> None:
    from editcaption_mega.curation.model_samples import SamplingSettings
    from editcaption_mega.curation.preference_pairs import sample_rejected as sample

    settings = SamplingSettings(
        arguments.samples, arguments.temperature, arguments.seed, arguments.max_new_tokens, arguments.batch_size
    )
    from editcaption_mega.conversion import WeightSource
    from editcaption_mega.data.batching.dataset import open_pairs
    from editcaption_mega.inference import Generator
    from editcaption_mega.inference.local.folder import check_model

    pixels = PixelLimits(min_pixels=arguments.min_pixels, max_pixels=arguments.max_pixels)
    pixels.check_pixels("pictures")
    with before_work():
        folder = check_model(arguments.model)
        dataset = open_pairs(
            arguments.shards, folder, min_pixels=pixels.min_pixels, max_pixels=pixels.max_pixels,
            prompt=arguments.prompt,
        )  # fmt: skip
    counts = sample(
        dataset, lambda: Generator(folder), arguments.output, settings,
        model=WeightSource(Path(folder)).digest(), progress=cli.progress,
    )  # fmt: skip
    verdicts, modes = counts.verdicts, counts.failure_modes
    print(
        f"{arguments.output}: {verdicts['rejected']:,} preference pairs from {len(dataset):,} "
        f"({verdicts['already_correct']:,} already_correct, {verdicts['unusable']:,} unusable)"
    )
    for name in ("orientation", "viewpoint", "detail", "no failure mode"):
        print(f"  {modes[name]:,} with {name if name.startswith('no') else 'a failure of ' + name}")
