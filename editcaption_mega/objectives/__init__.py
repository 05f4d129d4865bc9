"""What is minimised, from log-probabilities; none of it knows loops or ranks."""

from .dpo import DPOObjective, PairFacts, preference_loss
from .objective import Agreement, Objective, RowLoss
from .sft import SFTObjective

__all__ = ["Agreement", "DPOObjective", "Objective", "PairFacts", "RowLoss", "SFTObjective", "preference_loss"]
