"""Weights between Hugging Face folders, sharded checkpoints and model chunks, by one table of rules."""

from .adapter_table import AdapterChoice
from .adapter_values import begin_adapters, load_adapters
from .checkpoint_folders import find_checkpoint
from .hugging_face import FolderReader
from .local_copies import LocalCopies
from .manifest import DamagedCheckpointError
from .param_shards import ParamShard, local_param_shards
from .rules import Box, Rule, rules_for
from .store import WEIGHTS, StoreReader, StoreWriter, check_same_model
from .verify import verify_checkpoint
from .weights import WeightSource, load_weights

__all__ = [
    "WEIGHTS",
    "AdapterChoice",
    "Box",
    "DamagedCheckpointError",
    "FolderReader",
    "LocalCopies",
    "ParamShard",
    "Rule",
    "StoreReader",
    "StoreWriter",
    "WeightSource",
    "begin_adapters",
    "check_same_model",
    "find_checkpoint",
    "load_adapters",
    "load_weights",
    "local_param_shards",
    "rules_for",
    "verify_checkpoint",
]
