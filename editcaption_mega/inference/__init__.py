"""Generation from Hugging Face folders, in process."""

from .generate import EncodedPrompt, Generation, Generator

__all__ = ["EncodedPrompt", "Generation", "Generator"]
