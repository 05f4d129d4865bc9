"""EditCaption-Mega: vision-language models that write image-editing instructions, trained on Megatron-Core.

The names below are what most programs need; docs/python.md shows them. Importing the package imports none of them."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .interface import TrainingResult, caption, load_captioner, log_probs, open_shards, train_dpo, train_sft

__version__ = "0.1.0"
__all__ = [
    "TrainingResult",
    "caption",
    "load_captioner",
    "log_probs",
    "open_shards",
    "train_dpo",
    "train_sft",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.interface"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
