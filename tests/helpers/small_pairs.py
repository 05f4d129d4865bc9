"""Pairs of the synthetic world with chosen answers, as a dataset of a model's folder and as packed sequences."""

from pathlib import Path

from editcaption_mega.data.batching.dataset import PairDataset, open_pairs
from editcaption_mega.data.batching.loader import SequenceReader
from editcaption_mega.data.batching.packing import Packer, RankShare
from editcaption_mega.data.images.decode import encode_png
from editcaption_mega.data.shards.reader import ShardWriter
from editcaption_mega.data.synthetic import WorldSettings, render_pair

ANSWERS = [("Make it red" + " again" * i, "Do nothing" + " at all" * (5 - i)) for i in range(6)]


def write_pairs(folder: Path, answers: list[tuple[str, str] | None]) -> str:
    """One pair for each (chosen, rejected); None: a pair with its instruction only."""
    with ShardWriter(folder) as writer:
        for index, pair in enumerate(answers):
            made = render_pair(WorldSettings(), 5, index)
            change = {} if pair is None else {"chosen": pair[0], "rejected": pair[1]}
            record = made.pair.model_copy(update=change)
            writer.add(record, encode_png(made.source), "png", encode_png(made.target), "png")
    return str(folder)


def opened(model: Path, folder: str | Path, **options) -> PairDataset:
    return open_pairs([str(folder)], model, min_pixels=1024, max_pixels=1280 * 1024, **options)


def reader_of(dataset: PairDataset, sequence_length: int, **share) -> SequenceReader:
    """Reads packed sequences of the data, as a job makes it."""
    lengths, problems = dataset.measure(range(len(dataset)), sequence_length)
    assert problems == []
    return SequenceReader(dataset, lengths, packer_of(dataset, sequence_length, **share))


def packer_of(dataset: PairDataset, sequence_length: int, **share) -> Packer:
    tokens = dataset.encoder.image_token_id, dataset.encoder.pad_token_id
    return Packer(dataset.images, *tokens, 4, sequence_length, share=RankShare(**share))
