"""Image pairs: shards and their index, texts, images, importers, and batches.

These two names need no torch, and neither is imported before it is asked for: who reads the side files of a model does
not wait for shards."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from editcaption_mega.data.batching.order import SampleOrder
    from editcaption_mega.data.shards.reader import open_shards

__all__ = ["SampleOrder", "open_shards"]
_MODULES = {"SampleOrder": "batching.order", "open_shards": "shards.reader"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)
