"""What is minimised, from log-probabilities; none of it knows loops or ranks."""

from .sft import SFTObjective

__all__ = ["SFTObjective"]
