"""EditCaption-Mega: vision-language models that write image-editing instructions, trained on Megatron-Core."""

__version__ = "0.1.0"
