"""A conversion as a whole: its files made by several processes, compared with their source, and published."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor

from editcaption_mega import platform
from editcaption_mega.lock import FolderLock
from editcaption_mega.progress import Progress

from ..manifest import StoredFile
from .compare import Compared
from .output_files import OutputFile
from .partial_folder import PartialFolder
from .worker_processes import work_off


@dataclass(frozen=True)
class Conversion:
    """What is made of what.

    plan: JSON that another source or other settings change. source: what the plan has of the source, as it is now.
    parts: the values of a tensor, by its name in the files, in order. finish: adds to the content what is beside the
    files. compare: of the finished folder with its source."""

    plan: dict[str, Any]
    files: list[OutputFile]
    source: Callable[[], dict[str, Any]]
    parts: Callable[[str], Iterator[Tensor]]
    finish: Callable[[Path, dict[str, StoredFile]], None]
    compare: Callable[[Path], list[Compared]]
    digest: bool

    def run(self, output: Path, *, workers: int, verify: bool, progress: Progress) -> None:
        """Make the folder; an output that exists is only compared. Collective: ranks share the files.

        Raises ValueError where the output differs from its source, or the source changed meanwhile; OSError."""
        if output.exists() and any(output.iterdir()):
            assert verify, "it was refused before"
            with platform.together():
                if platform.is_rank_zero():
                    PartialFolder.of(output).remove_published()
            self._verify(output, None, workers, progress)
            return
        folder = PartialFolder.of(output)
        lock = FolderLock(folder.path, "conversion")
        with platform.together():
            if platform.is_rank_zero():
                lock.acquire(platform.print_rank_0)
        try:
            records = self._make(folder, workers, progress)
            with platform.together():
                if platform.is_rank_zero():
                    self.finish(folder.content, records)
            if verify:
                self._verify(folder.content, folder, workers, progress)
            with platform.together():
                if platform.is_rank_zero():
                    lock.check()
                    if self.source() != self.plan["source"]:
                        raise ValueError(
                            f"the source of {output} changed while it was read, so nothing was published: give the "
                            "same command again when the source stays as it is"
                        )
                    folder.publish()
        finally:
            lock.release()

    def _make(self, folder: PartialFolder, workers: int, progress: Progress) -> dict[str, StoredFile]:
        done = platform.from_rank_zero(lambda: folder.begin(self.plan, platform.print_rank_0))
        if done:
            platform.print_rank_0(f"{folder.path}: goes on, {len(done)} of {len(self.files)} files are there")
        mine = list(platform.share(self.files))
        missing = [file for file in mine if file.name not in done]
        total = sum(file.nbytes for file in mine)
        made: dict[str, StoredFile] = {}

        def steps() -> Iterator[int]:
            yield total - sum(file.nbytes for file in missing)
            records = yield from work_off(
                missing, lambda file: folder.make(file, self.parts, digest=self.digest), workers
            )
            made.update((file.name, record) for file, record in zip(missing, records, strict=True))

        with platform.together():
            for _ in progress(steps(), total, "written"):
                pass
        return {name: record for part in platform.gather({**done, **made}) for name, record in part.items()}

    def _verify(self, content: Path, folder: PartialFolder | None, workers: int, progress: Progress) -> None:
        """Compare the content with its source; of a folder that is being made, what differs is made anew next time."""
        problems: list[tuple[Path, str]] = []
        with platform.together():
            mine = list(platform.share(self.compare(content)))

            def steps() -> Iterator[int]:
                results = yield from work_off(mine, lambda item: item.compare(), workers)
                problems.extend(problem for result in results for problem in result)

            for _ in progress(steps(), sum(item.nbytes for item in mine), "compared"):
                pass
        differences = sorted({problem for part in platform.gather(problems) for problem in part})
        if not differences:
            platform.print_rank_0(f"{content if folder is None else folder.output}: equal to its source")
            return
        more = f" (and {len(differences) - 1} more differences)" if len(differences) > 1 else ""
        mend = "if it was made of another source, name that one; else convert again into a new --output"
        if folder is not None:
            mend = "it was not published; the same command makes the files that differ anew"
            if platform.is_rank_zero():
                for path, _ in differences:
                    folder.forget(path.name)
        raise ValueError(f"{differences[0][1]}{more}: {mend}")


@contextmanager
def joined_ranks() -> Iterator[None]:
    """Under torchrun, have the ranks talk in the block, where they do not already."""
    if platform.world_size() == 1 or dist.is_initialized():
        yield
        return
    failed = True
    platform.initialize(platform.Layout(), seed=0)
    try:
        yield
        failed = False
    finally:
        platform.destroy(after_failure=failed)
