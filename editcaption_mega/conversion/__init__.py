"""Weights between Hugging Face folders, sharded checkpoints and model chunks, by one table of rules."""

from editcaption_mega import platform  # noqa: F401  isort: skip
from .hugging_face import FolderReader, hf_tensors, write_folder
from .load import WeightSource, load_weights
from .manifest import DamagedCheckpointError
from .param_shards import ParamShard, local_param_shards
from .rules import Box, Rule, rules_for
from .run_folder import find_checkpoint
from .store import WEIGHTS, StoreReader, StoreWriter
from .verify import check_same_model, verify_checkpoint

__all__ = [
    "WEIGHTS",
    "Box",
    "DamagedCheckpointError",
    "FolderReader",
    "ParamShard",
    "Rule",
    "StoreReader",
    "StoreWriter",
    "WeightSource",
    "check_same_model",
    "find_checkpoint",
    "hf_tensors",
    "load_weights",
    "local_param_shards",
    "rules_for",
    "verify_checkpoint",
    "write_folder",
]
