"""What Megatron-Core and torch say at every start, on every rank, and no user can mend."""

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_WARNINGS = (
    "Transformer Engine and Apex are not installed",
    "Apex is not installed",
    "MimoModelConfig is experimental",
    "full scope is deprecated",
    "`torch.distributed.",
    "The .grad attribute of a Tensor that is not a leaf",
    "Warning: tp_group is None",
)


def silence() -> None:
    """Hide these remarks in this process from now on. For entry points: it changes filters and log levels of all."""
    for message in _WARNINGS:
        warnings.filterwarnings("ignore", message=re.escape(message))
    for logger in _loggers():
        logger.setLevel(logging.ERROR)


@contextmanager
def silenced() -> Iterator[None]:
    """Hide them inside the `with` only; afterwards filters and log levels are as they were."""
    levels = [(logger, logger.level) for logger in _loggers()]
    with warnings.catch_warnings():
        silence()
        try:
            yield
        finally:
            for logger, level in levels:
                logger.setLevel(level)


def _loggers() -> list[logging.Logger]:
    # The model's class, of which Megatron's says at each start that it will be another's.
    names = ["torch.utils.cpp_extension", "megatron.core.models.gpt.gpt_model"]
    if not torch.cuda.is_available():
        names.append("megatron.core")  # where there is a GPU its warnings may be worth reading
    return [logging.getLogger(name) for name in names]
