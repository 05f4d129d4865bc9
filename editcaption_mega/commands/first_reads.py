"""What the disk does while a command imports PyTorch, which takes a core two seconds."""

import gc
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

MOST_BYTES = 2 << 30  # that are asked for: about what a fast disk reads in that time
_STEP = 1 << 20  # a system may do no more for a call


@contextmanager
def first_reads(files: Sequence[Path]) -> Iterator[None]:
    """A block of imports, beside which the first of these files come into the page cache. They need not exist. Garbage
    is not collected in it, which would take a sixth of the time: imports make hardly any."""
    threading.Thread(target=_read_ahead, args=(files,), daemon=True).start()
    collected = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collected:
            gc.enable()


def _read_ahead(files: Sequence[Path]) -> None:
    left = MOST_BYTES
    for path in files:
        with (
            suppress(OSError, AttributeError),
            open(path, "rb") as file,
        ):  # not every system has it; nothing depends on it
            for start in range(0, min(path.stat().st_size, left), _STEP):
                os.posix_fadvise(file.fileno(), start, _STEP, os.POSIX_FADV_WILLNEED)
                left -= _STEP
