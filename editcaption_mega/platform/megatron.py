"""Imports Megatron-Core without its remarks on what this machine lacks, so it comes before every other import of it.

`training` imports this file in its `__init__`. The rooms above are used without Megatron too: there each file does that
needs it. Nothing but the import happens here, without what is installed and broken: what a process needs before it uses
Megatron is done by `prepare`, which entry points call.
"""

from .broken_library import leave_out_broken
from .remarks import silenced

with silenced():
    leave_out_broken()
    import megatron.core.distributed
    import megatron.core.models.gpt
    import megatron.core.optimizer
    import megatron.core.pipeline_parallel  # noqa: F401
