"""Generation from Hugging Face folders, in process, and the client of model endpoints (`endpoint`)."""

from typing import TYPE_CHECKING

from editcaption_mega.lazy_names import lazy_names

if TYPE_CHECKING:
    from editcaption_mega.inference.local.generator import EncodedPrompt, Generation, Generator

__all__ = ["EncodedPrompt", "Generation", "Generator"]

# Who only asks endpoints need not wait for PyTorch.
__getattr__ = lazy_names(__name__, dict.fromkeys(__all__, ".local.generator"))
