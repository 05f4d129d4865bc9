"""Shards and their index, the order of samples, image decoding, importers. Nothing here needs torch to be read."""

from editcaption_mega.data.batching.order import SampleOrder
from editcaption_mega.data.shards.reader import open_shards

__all__ = ["SampleOrder", "open_shards"]
