"""What is minimized, from log-probabilities; none of it knows loops or ranks."""

from .dpo import DPOObjective, PairFacts, preference_loss
from .objective import NO_STATISTICS, Objective, RowLoss
from .reference_agreement import Agreement
from .sft import SFTObjective

__all__ = [
    "NO_STATISTICS",
    "Agreement",
    "DPOObjective",
    "Objective",
    "PairFacts",
    "RowLoss",
    "SFTObjective",
    "preference_loss",
]
