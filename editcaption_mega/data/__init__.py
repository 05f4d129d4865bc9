"""Image pairs: shards and their index, texts, images, importers, and batches. These two names need no torch."""

from editcaption_mega.data.batching.order import SampleOrder
from editcaption_mega.data.shards.reader import open_shards

__all__ = ["SampleOrder", "open_shards"]
