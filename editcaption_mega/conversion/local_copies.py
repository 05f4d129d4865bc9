"""Copies of a checkpoint's files on the disk of the node that wrote them, for a job that starts again there.

A rank keeps what it wrote of the newest checkpoint, each file under its checksum, so that a copy is never taken for
another file. Which checkpoint is resumed and what is in it the checkpoint itself says: a copy that is missing, damaged
or of another node's rank costs nothing but the reading of the file that it is a copy of.
"""

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path

from editcaption_mega import platform
from editcaption_mega.files import naming, replacing


class LocalCopies:
    """Of this rank's files in the checkpoints of one run.

    folder: on the node's own disk; several runs may share it. layout: of the job's ranks, as checkpoints have it in
    their metadata; with another one the ranks read other files than they wrote. verified: whether files that are read
    are to be compared with their checksums first."""

    def __init__(self, folder: str | Path, run: str | Path, layout: list[int], *, verified: bool = True):
        self.folder = Path(folder) / f"editcaption-{hashlib.sha256(str(Path(run).resolve()).encode()).hexdigest()[:16]}"
        self.layout, self.verified = layout, verified
        self._mine = f"rank{platform.rank():05d}-"  # as `StoreWriter` names its files

    def path(self, name: str, size: int, sha256: str) -> Path | None:
        """The copy of a file of the checkpoint, if there is one of so many bytes."""
        path = self._place(sha256)
        return path if self.wrote(name) and path.is_file() and path.stat().st_size == size else None

    def wrote(self, name: str) -> bool:
        """Whether a file of a checkpoint is of this rank."""
        return name.startswith(self._mine)

    def keep(self, checkpoint: Path, digests: Mapping[str, str]) -> None:
        """Copy files that this rank has written, by name with their sha256; copies of an earlier checkpoint make room
        first. Raises OSError."""
        with naming(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        wanted = {self._place(sha256): name for name, sha256 in digests.items()}
        for path in self.folder.glob("rank*"):
            if path not in wanted and self._is_old(path.name):
                path.unlink(missing_ok=True)
        for path, name in wanted.items():
            with replacing(path, "wb") as copy, open(checkpoint / name, "rb") as file, naming(path):
                shutil.copyfileobj(file, copy, 16 << 20)

    def _is_old(self, name: str) -> bool:
        """Of this rank, or of one that the node no longer has."""
        number = name.removeprefix("rank").partition("-")[0]
        others = {rank for rank in platform.ranks_of_node() if rank != platform.rank()}
        return not (number.isdigit() and int(number) in others)

    def _place(self, sha256: str) -> Path:
        return self.folder / f"{self._mine}{sha256}.safetensors"
