"""Folders of large files, made by several processes, that go on where they were killed."""

from .compare import Compared, ComparedBytes, ComparedFile, ComparedRule, drop_cached
from .conversion_job import Conversion, joined_ranks
from .output_files import OutputFile, Read, canonical_parts, folder_parts, level_files, piece_names
from .partial_folder import PartialFolder
from .plans import digest_of, file_identity, plan_of, values_of

__all__ = [
    "Compared",
    "ComparedBytes",
    "ComparedFile",
    "ComparedRule",
    "Conversion",
    "OutputFile",
    "PartialFolder",
    "Read",
    "canonical_parts",
    "digest_of",
    "drop_cached",
    "file_identity",
    "folder_parts",
    "joined_ranks",
    "level_files",
    "piece_names",
    "plan_of",
    "values_of",
]
