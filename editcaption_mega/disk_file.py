"""A file that is written once, from its beginning to its end, in large blocks.

Where the system lets it, the blocks go to the disk without the page cache (O_DIRECT): to find room in it and to copy
them there takes a core as long as the disk takes to write them, and nobody reads a file of weights at once.
"""

import errno
import fcntl
import os
from pathlib import Path

PAGE = 4096  # what addresses, lengths and places must be multiples of for O_DIRECT; of every file system, or less
SYNC_BYTES = 128 << 20  # what is left to the page cache, where it is used, before the disk is asked for it
_CANNOT = (errno.EINVAL, errno.EOPNOTSUPP)  # how file systems say that they have no direct writes
_DIRECT = getattr(os, "O_DIRECT", 0)  # not every system has it


class DiskFile:
    """direct: past the page cache, where that is possible; all blocks but the last are whole pages, in memory too."""

    def __init__(self, path: Path, *, direct: bool):
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        self._direct = direct and _DIRECT != 0
        try:
            self._descriptor = os.open(path, flags | (_DIRECT if self._direct else 0), 0o666)
        except OSError as error:
            if not self._direct or error.errno not in _CANNOT:
                raise
            self._direct = False
            self._descriptor = os.open(path, flags, 0o666)
        self._unsynced = 0

    def __enter__(self) -> "DiskFile":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def write(self, block: memoryview) -> None:
        """Append it. Raises OSError."""
        if self._direct and len(block) % PAGE:
            self._use_page_cache()
        rest = block
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except OSError as error:
                # Some file systems say only now that they cannot.
                if not self._direct or error.errno not in _CANNOT:
                    raise
                self._use_page_cache()
        self._unsynced += 0 if self._direct else len(block)
        if self._unsynced >= SYNC_BYTES:
            os.fdatasync(self._descriptor)
            self._unsynced = 0

    def sync(self) -> None:
        """Have it all on the disk. Raises OSError."""
        os.fsync(self._descriptor)

    def _use_page_cache(self) -> None:
        flags = fcntl.fcntl(self._descriptor, fcntl.F_GETFL)
        fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags & ~_DIRECT)
        self._direct = False
