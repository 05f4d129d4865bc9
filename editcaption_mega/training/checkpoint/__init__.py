"""Checkpoints: weights, optimizer, schedule, data position and random state, resumable at any layout.

`checkpoints/step_XXXXXXXX/` is one store (`conversion.store`): weights and optimizer moments as boxes of canonical
tensors, `state.json`, and `hf/` with config and tokenizer. All ranks write it under another name, and when each is done
rank 0 publishes it: one rename. `background_save` does that beside the steps.

Each moment of the optimizer is a canonical tensor like its weight, so any layout reads it. A data-parallel rank writes
and reads the ranges of it that are its own, as boxes; ranks that hold much have others write a part (`handover`).
`megatron_optimizer` says why this is not Megatron's own sharded optimizer state.
"""

from .background_save import CheckpointSaver
from .contents import stored_ranges, tensors_of_rank
from .handover import written_bytes
from .publishing import CheckpointFolder, save_checkpoint, write_best
from .restoring import load_optimizer, load_random_state, local_copies

__all__ = [
    "CheckpointFolder",
    "CheckpointSaver",
    "load_optimizer",
    "load_random_state",
    "local_copies",
    "save_checkpoint",
    "stored_ranges",
    "tensors_of_rank",
    "write_best",
    "written_bytes",
]
