"""The two conversions as whole jobs: folder -> checkpoint, checkpoint -> folder.

Each is a plan of output files, which processes (or, under torchrun, ranks) share; one that was killed goes on with the
files that are missing (`partial_folder.py`)."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from editcaption_mega import platform
from editcaption_mega.data.text.side_files import CONFIG, is_peft_folder
from editcaption_mega.model import Architecture
from editcaption_mega.progress import Progress, no_progress
from editcaption_mega.settings import SettingsError, before_work

from .checkpoint_folders import checkpoints, find_checkpoint, held_checkpoint
from .folder_conversion import folder_source, store_source, to_folder
from .hugging_face import FOLDER_FILE_BYTES, FolderReader, architecture_and_fp8
from .jobs import PartialFolder, joined_ranks
from .manifest import MANIFEST
from .peft_folder import write_peft_folder
from .store import MASTERS, WEIGHTS, StoreReader
from .store_conversion import to_store
from .trained_adapter import TrainedAdapter, base_folder, merged
from .verify import verify_checkpoint


def refuse_existing(output: Path) -> None:
    """Raise SettingsError when `output` holds anything, as conversions never write over something, or where no folder
    can get its name."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        PartialFolder.of(output).remove_published()
        raise SettingsError(f"{output} already holds something: choose another folder, nothing was written")
    PartialFolder.of(output).refuse_unusable()


def source_architecture(folder: Path) -> Architecture:
    """That of a folder which `hf_to_megatron` can convert: the weights may be FP8. Raises ValueError, also for weights
    that are not whole."""
    if not (folder / CONFIG).is_file() and ((folder / MANIFEST).is_file() or checkpoints(folder)):
        raise ValueError(
            f"{folder} is a checkpoint or run of this package, expected a Hugging Face folder: there is nothing to "
            "convert; editcaption convert megatron-to-hf writes it as one"
        )
    architecture = architecture_and_fp8(folder)[0]
    FolderReader(folder, fp8_dtype=torch.bfloat16)
    return architecture


def hf_to_megatron(
    folder: Path,
    output: Path,
    *,
    dtype: torch.dtype | None = None,
    workers: int = 1,
    verify: bool = False,
    progress: Progress = no_progress,
) -> None:
    """Write the folder's weights as a store of whole canonical tensors, with `hf/` beside them.

    dtype: of all weights (None: as the folder has them, FP8 as bf16). verify: compare what was written with the folder
    before it is published; an output that exists is only compared. workers: processes; under torchrun the ranks share
    the files beside. progress: of bytes. Memory of a process: a few parts of a tensor, of 8 MiB.
    Raises ValueError for a folder that is not whole and for an output that differs, OSError."""
    if not (verify and (output / MANIFEST).is_file()):
        refuse_existing(output)
    with joined_ranks():
        to_store(folder, dtype).run(output, workers=workers, verify=verify, progress=progress)


def megatron_to_hf(
    checkpoint: Path,
    output: Path,
    *,
    max_file_bytes: int = FOLDER_FILE_BYTES,
    dtype: torch.dtype | None = None,
    workers: int = 1,
    verify: bool = False,
    progress: Progress = no_progress,
) -> None:
    """Write a folder that transformers loads, in the layout and with the config of the folder that training began
    with. dtype: of all weights (None: as the checkpoint has them); fp32 is taken from the optimizer's master weights
    where the checkpoint has them. Its run may go on meanwhile. The other parameters as in
    `hf_to_megatron`. Raises ValueError, OSError."""
    if not (verify and (output / CONFIG).is_file()):
        refuse_existing(output)
    prefixes = (MASTERS, WEIGHTS) if dtype == torch.float32 else (WEIGHTS,)
    with joined_ranks():
        folder = platform.from_rank_zero(lambda: find_checkpoint(checkpoint))
        with held_checkpoint(folder):
            store = verify_checkpoint(folder, tensors=prefixes, progress=progress)
            conversion = to_folder(store_source(store, prefixes), dtype, max_file_bytes)
            conversion.run(output, workers=workers, verify=verify, progress=progress)


def export_adapter(adapter: Path, output: Path, *, base: Path | None = None, dtype: torch.dtype | None = None) -> None:
    """Write adapters, of a run, checkpoint or PEFT folder, as a PEFT folder. base: the weights that they are on, which
    adapter_config.json names; None: as the run or the PEFT folder has them. dtype: of its tensors; None: as they are.
    Raises ValueError, OSError."""
    refuse_existing(output)
    opened = _open_adapter(adapter, base)
    values = {name: value.to(dtype or value.dtype) for name, value in opened.values.items()}
    write_peft_folder(output, opened.choice, values, str(base or opened.base), opened.base_weights)


def merge_adapter(
    adapter: Path,
    output: Path,
    *,
    base: Path | None = None,
    max_file_bytes: int = FOLDER_FILE_BYTES,
    dtype: torch.dtype | None = None,
    workers: int = 1,
    verify: bool = False,
    progress: Progress = no_progress,
) -> None:
    """Write weights with adapters in them as a Hugging Face folder. base: folder, checkpoint or run of the weights;
    None: as the run of the adapters or their PEFT folder has them. The other parameters as in `megatron_to_hf`. Raises
    ValueError, for weights too that the adapters were not trained on, and OSError."""
    if not (verify and (output / CONFIG).is_file()):
        refuse_existing(output)
    with joined_ranks():
        opened = platform.from_rank_zero(lambda: _open_adapter(adapter, base))
        with before_work():
            if base is None and not Path(opened.base).is_dir():
                raise ValueError(
                    f"the adapters in {opened.path} are on {opened.base}, which is not there: name its folder with "
                    "--base"
                )
            where = _weights_at(base or Path(opened.base))
            platform.from_rank_zero(lambda: opened.check_base(where))
        weights = folder_source(where) if (where / CONFIG).is_file() else store_source(StoreReader(where))

        def identity() -> dict[str, Any]:
            return {**weights.identity(), "adapter": opened.digest()}

        source = replace(weights, conversion="merge_adapter", read=merged(weights.read, opened), identity=identity)
        to_folder(source, dtype, max_file_bytes).run(output, workers=workers, verify=verify, progress=progress)


def _weights_at(base: Path) -> Path:
    """A Hugging Face folder or a checkpoint."""
    return base if (base / CONFIG).is_file() else find_checkpoint(base)


def _open_adapter(adapter: Path, base: Path | None) -> TrainedAdapter:
    if not is_peft_folder(adapter):
        verify_checkpoint(find_checkpoint(adapter), tensors=WEIGHTS)
    elif base is None:
        base = base_folder(adapter)
    where = None if base is None else _weights_at(base)
    architecture = None
    if where is not None:
        architecture = Architecture.from_folder(where if (where / CONFIG).is_file() else where / "hf")
    with before_work():
        opened = TrainedAdapter.open(adapter, architecture)
        if where is not None:
            opened.check_base(where)
    return opened
