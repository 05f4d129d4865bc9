"""The nouns of the project and their JSON form: what a pair, its changes and its provenance are."""

from .pair import CATEGORIES, FAILURE_MODES, SCHEMA_VERSION, Change, Changes, EditPair, RecordError

__all__ = ["CATEGORIES", "FAILURE_MODES", "SCHEMA_VERSION", "Change", "Changes", "EditPair", "RecordError"]
