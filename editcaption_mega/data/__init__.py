"""Image pairs: shards and their index, texts, images, importers, and batches.

These two names need no torch, and neither is imported before it is asked for: who reads the side files of a model does
not wait for shards."""

from typing import TYPE_CHECKING

from editcaption_mega.lazy_names import lazy_names

if TYPE_CHECKING:
    from editcaption_mega.data.batching.order import SampleOrder
    from editcaption_mega.data.shards.reader import open_shards

__all__ = ["SampleOrder", "open_shards"]
__getattr__ = lazy_names(__name__, {"SampleOrder": ".batching.order", "open_shards": ".shards.reader"})
