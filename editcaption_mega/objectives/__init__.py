"""What is minimized, from log-probabilities; none of it knows loops or ranks."""

from .dpo import DPOObjective, preference_loss
from .margins import PairFacts, pair_margins, reference_hardness
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
    "pair_margins",
    "preference_loss",
    "reference_hardness",
]
