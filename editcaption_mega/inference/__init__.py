"""Generation from Hugging Face folders, in process, and the client of model endpoints (`endpoint`)."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from editcaption_mega.inference.local.generator import EncodedPrompt, Generation, Generator

__all__ = ["EncodedPrompt", "Generation", "Generator"]


def __getattr__(name: str) -> Any:
    # Who only asks endpoints need not wait for PyTorch.
    if name in __all__:
        from .local import generator

        return getattr(generator, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
