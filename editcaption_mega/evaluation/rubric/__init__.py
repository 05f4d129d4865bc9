"""The paper's rubric as pure functions, and what rests on it: hints, one opinion of repeats, the paper's numbers."""

from editcaption_mega.settings.evaluation import CompletenessTable

from .lexicon import forbidden_terms
from .scores import (
    COMPLETENESS_TABLES,
    SECONDARY_BONUS,
    accuracy_score,
    ceiling,
    clarity_ceiling,
    clarity_score,
    completeness_score,
    weighted,
    weighted_score,
)

__all__ = [
    "COMPLETENESS_TABLES",
    "SECONDARY_BONUS",
    "CompletenessTable",
    "accuracy_score",
    "ceiling",
    "clarity_ceiling",
    "clarity_score",
    "completeness_score",
    "forbidden_terms",
    "weighted",
    "weighted_score",
]
