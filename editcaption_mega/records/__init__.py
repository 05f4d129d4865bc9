"""The nouns of the project and their JSON form: a pair and its changes, an instruction, a judgement, a verdict."""

from .evaluation import DIMENSIONS, SEVERITIES, Assertion, HumanVerdict, Instruction, Judgement
from .pair import CATEGORIES, FAILURE_MODES, SCHEMA_VERSION, Change, Changes, EditPair
from .record import LARGEST_RECORD, RecordError, has_words, not_json, shown, words_problem

__all__ = [
    "CATEGORIES", "DIMENSIONS", "FAILURE_MODES", "LARGEST_RECORD", "SCHEMA_VERSION", "SEVERITIES", "Assertion",
    "Change", "Changes", "EditPair", "HumanVerdict", "Instruction", "Judgement", "RecordError", "has_words", "not_json",
    "shown",
    "words_problem",
]  # fmt: skip
