"""Does every file of a checkpoint have the bytes that were written? The ranks share the reading."""

import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import torch.distributed as dist

from editcaption_mega import platform
from editcaption_mega.progress import Progress, no_progress
from editcaption_mega.settings import SettingsError

from .checkpoint_folders import step_folders
from .local_copies import LocalCopies
from .manifest import MANIFEST, MEND, DamagedCheckpointError, Manifest, StoredFile, file_problem, read_manifest
from .store import StoreReader

_WRITER = re.compile(r"rank(\d+)-")  # as `StoreWriter` names its files
_THREADS = 8  # at most: more wait for the disk


def verify_checkpoint(
    folder: str | Path,
    *,
    tensors: str | tuple[str, ...] = "",
    local: LocalCopies | None = None,
    progress: Progress = no_progress,
) -> StoreReader:
    """Check the bytes of the files that hold tensors whose key begins with `tensors` (or one of them), and of all side
    files -> the store. Each rank reads its share, of which it may have `local` copies; damaged ones are removed.
    Collective. progress: of bytes.

    Raises DamagedCheckpointError, alike on every rank, that names the first damaged file and how many more there are.
    A checkpoint of format 1 has no checksums: rank 0 prints a line that says so."""
    with platform.together():
        store = StoreReader(folder, local)
    if not store.manifest.has_checksums:
        platform.print_rank_0(f"{store.folder} was written without checksums (format 1): its bytes cannot be verified")
        return store
    with platform.together():
        _refuse_foreign_side_files(store.folder, store.manifest)
    mine = _without_copies(store, _share(sorted(needed_files(store.manifest, tensors)), store.copies_serve))
    sizes = {str(store.folder / name): store.manifest.files[name].bytes for name in mine}
    problems = []

    def steps() -> Iterator[int]:
        for path, problem in check_files((store.folder, name, store.manifest.files[name]) for name in mine):
            problems.append(problem)
            yield sizes[path]

    for _ in progress(steps(), sum(sizes.values()), "checked"):
        pass
    damaged = sorted(problem for part in platform.gather(problems) for problem in part if problem)
    if damaged:
        more = f" (and {len(damaged) - 1} more files)" if len(damaged) > 1 else ""
        raise DamagedCheckpointError(f"{damaged[0]}{more}; {MEND}")
    return store


def _without_copies(store: StoreReader, names: list[str]) -> list[str]:
    """Those of the files that this node has no sound copy of, and those that others read, who have none. Collective."""
    copies = {name: copy for name in names if (copy := store.local_copy(name)) is not None}
    checked = dict(check_files((copy.parent, copy.name, store.manifest.files[name]) for name, copy in copies.items()))
    damaged = {name: problem for name, copy in copies.items() if (problem := checked[str(copy)]) is not None}
    for name, problem in damaged.items():
        copies.pop(name).unlink(missing_ok=True)
        print(f"{problem}: it was a copy, which is removed, and the checkpoint's own file is read", flush=True)
    with_copies = sum(platform.gather(len(copies)))
    if with_copies:
        platform.print_rank_0(
            f"{with_copies} of {len(store.manifest.files)} files of {store.folder} are read from copies on the nodes"
        )
    return [name for name in names if name not in copies or store.is_read_by_others(name)]


def _share(names: list[str], own: bool) -> list[str]:
    """This rank's part of the files. Where each rank wrote some, or `own` says so, it takes its own: it reads them
    again to resume, and they come from its node's memory then."""
    if not dist.is_initialized():
        return names
    rank, ranks = platform.rank(), set(range(platform.world_size()))
    writers = {name: int(match[1]) for name in names if (match := _WRITER.match(name))}
    if not own and set(writers.values()) != ranks:
        writers = {}
    others = [name for name in names if name not in writers]
    return [name for name, writer in writers.items() if writer == rank] + others[rank :: len(ranks)]


def verify_side_files(folder: Path) -> None:
    """Check what a checkpoint holds beside its tensors, before any of it is read. Not collective: they are small.

    Raises DamagedCheckpointError. One of format 1 has no checksums; `verify_checkpoint` says so."""
    manifest = read_manifest(folder)
    if not manifest.has_checksums:
        return
    _refuse_foreign_side_files(folder, manifest)
    for name in sorted(needed_files(manifest, None)):
        problem = file_problem(folder, name, manifest.files[name])
        if problem:
            raise DamagedCheckpointError(f"{problem}; {MEND}")


def _refuse_foreign_side_files(folder: Path, manifest: Manifest) -> None:
    """A tokenizer or template that was put into hf/ later would be taken for the model's own."""
    for path in sorted((folder / "hf").glob("[!.]*")):
        if path.relative_to(folder).as_posix() not in manifest.files:
            raise DamagedCheckpointError(
                f"{path} is not among the files that were written with the checkpoint: remove it, or {MEND}"
            )


def needed_files(manifest: Manifest, tensors: str | tuple[str, ...] | None = "") -> set[str]:
    """Files with a tensor whose key begins with `tensors` (or one of them; None: of none), and those without any
    tensor."""
    holding: dict[str, bool] = {}
    for key, tensor in manifest.tensors.items():
        for stored in tensor.boxes:
            holding[stored.file] = holding.get(stored.file, False) or tensors is not None and key.startswith(tensors)
    return {name for name in manifest.files if holding.get(name, True)}


def verify_folder(path: Path, progress: Progress = no_progress) -> tuple[str, list[str]]:
    """Check a checkpoint, or every one of a run folder, to the end -> (what was checked, a sentence for each problem).

    Raises SettingsError for a folder that is neither."""
    folders = [path] if (path / MANIFEST).is_file() else step_folders(path)
    if not folders:
        raise SettingsError(f"{path} is neither a checkpoint (no {MANIFEST}) nor a run folder with one")
    files, problems = [], []
    for folder in folders:
        try:
            manifest = read_manifest(folder)
        except ValueError as error:
            problems.append(str(error))
            continue
        files += [(folder, name, entry) for name, entry in manifest.files.items()]
        if not manifest.has_checksums:
            problems.append(f"{folder} was written without checksums (format 1): only its sizes can be checked")
    checked = progress(check_files(files), len(files), "files")
    problems += sorted(problem for _, problem in checked if problem)
    size = sum(entry.bytes for _, _, entry in files) / 1e6
    return f"{len(files)} files of {len(folders)} checkpoint{'s' if len(folders) > 1 else ''}, {size:,.1f} MB", problems


def check_files(files: Iterable[tuple[Path, str, StoredFile]]) -> Iterator[tuple[str, str | None]]:
    """(path, what is wrong with the file or None) of each (folder, name, entry), as they are done; by threads, which
    hashing leaves free."""
    with ThreadPoolExecutor(min(_THREADS, platform.threads_per_rank())) as pool:
        running = {pool.submit(file_problem, *file): str(file[0] / file[1]) for file in files}
        for done in as_completed(running):
            yield running[done], done.result()
