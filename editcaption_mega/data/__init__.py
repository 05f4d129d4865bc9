"""Shards and their index, the order of samples, image decoding, importers. Nothing here needs torch to be read."""

from editcaption_mega.data.order import SampleOrder
from editcaption_mega.data.shards import open_shards

__all__ = ["SampleOrder", "open_shards"]
