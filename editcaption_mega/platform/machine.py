"""What an entry point does to its process before Megatron-Core is used. No import does any of it."""

import os
import sys

import torch

from . import remarks
from .broken_library import leave_out_broken

_prepared = False
_dry = False


def prepare(*, dry: bool = False) -> None:
    """Prepare this process for Megatron-Core; entry points call it, later calls do nothing. `initialize` calls it too.

    With CUDA torch is left as it is. Without, the CPU answers what Megatron asks of CUDA (see `cpu`), which rank 0 says
    in a line on stderr. In both cases remarks that no user can mend are silenced (see `remarks`).

    dry: the process computes nothing. Where a GPU's tensors would be there are tensors of the device `meta`, with
    shapes and no values, also on a machine with a GPU; it cannot be taken back."""
    global _prepared, _dry
    assert not dry or _dry or not _prepared, "a process that has begun to compute cannot become a dry one"
    if _prepared:
        return
    remarks.silence()
    leave_out_broken()  # what is below may be the first to import Megatron
    if dry:
        from . import cpu

        torch.cuda.is_available = lambda: False  # a GPU that is here would be asked for its random state
        cpu.install(torch.device("meta"))
    elif not torch.cuda.is_available():
        from . import cpu

        cpu.install()
        if os.environ.get("RANK", "0") == "0":
            print("no GPU found: Megatron-Core runs on the CPU here", file=sys.stderr, flush=True)
    _prepared, _dry = True, dry


def is_dry() -> bool:
    """Whether this process was prepared to compute nothing."""
    return _dry


def require_prepared() -> None:
    """RuntimeError where Megatron-Core would ask for CUDA on a machine without it, because `prepare` was not called."""
    if not _prepared and not torch.cuda.is_available():
        raise RuntimeError(
            "this machine has no CUDA, which Megatron-Core asks for, and this process is not prepared for that: call "
            "editcaption_mega.platform.prepare() once at its start (platform.initialize does it too)"
        )
