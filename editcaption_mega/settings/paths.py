"""Whether the files and folders that a job's settings name are there: what can be said before PyTorch is imported."""

import os
from pathlib import Path

from .checks import SettingsError
from .dpo import DPOSettings
from .hub_names import hub_hint
from .job import JobSettings
from .loggers import check_installed


def check_paths(settings: JobSettings, *, start_will_be: bool = False) -> None:
    """Raise SettingsError for the first path that cannot be what its setting needs. No file is read. Loggers that are
    not installed are refused, too. start_will_be: an earlier run of the job makes the adapters to start from."""
    check_installed(settings.training.loggers)
    _check_model_folder(settings.model.folder, preferences=isinstance(settings, DPOSettings))
    if settings.model.checkpoint and not Path(settings.model.checkpoint).is_dir():
        raise SettingsError(
            f"model.checkpoint={settings.model.checkpoint}: no such folder; expected a checkpoint or a run folder, or "
            "model.checkpoint= (nothing) to begin with the weights in model.folder"
        )
    if (Path(settings.model.checkpoint or "nowhere") / "preprocessor_config.json").is_file():
        raise SettingsError(
            f"model.checkpoint={settings.model.checkpoint} is a Hugging Face folder: give it as model.folder and leave "
            "model.checkpoint empty"
        )
    if not start_will_be:
        _check_start(settings.model.adapters.start)
    for folder in settings.data.shards:
        _check_shards("data.shards", folder)
    for folder in settings.data.held_out:
        _check_shards("data.held_out", folder)
    if settings.data.prompt and not Path(settings.data.prompt).is_file():
        raise SettingsError(f"data.prompt={settings.data.prompt}: no such file; leave it empty for the built-in prompt")
    if isinstance(settings, DPOSettings):
        _check_reference(settings)
    _check_output(settings.training.output)


def _check_model_folder(name: str, *, preferences: bool) -> None:
    folder = Path(name)
    if folder.is_dir():
        if (folder / "adapter_config.json").is_file():
            weights = "name the folder of the weights that its adapters are on, and begin with them by"
            mend = f"{weights} model.adapters.start={name}"
            if preferences:  # the reference would be the weights without them
                add = "add its adapters to their weights first (editcaption convert megatron-to-hf --checkpoint"
                mend = f"{add} {name} --base BASE --output DIR), and name that folder"
            raise SettingsError(f"model.folder={name} is a PEFT folder: {mend}")
        if not (folder / "config.json").is_file():
            raise SettingsError(f"model.folder={name} holds no config.json: expected a Hugging Face Qwen3-VL folder")
        return
    if folder.exists():
        raise SettingsError(f"model.folder={name} is a file: expected a Hugging Face Qwen3-VL folder")
    raise SettingsError(f"model.folder={name}: no such folder; expected a Hugging Face Qwen3-VL folder{hub_hint(name)}")


def _check_start(start: str) -> None:
    """The adapters to begin with, if any."""
    folder = Path(start)
    if start and not folder.is_dir():
        there = "is a file" if folder.exists() else "no such folder"
        raise SettingsError(
            f"model.adapters.start={start}: {there}; expected a run, a checkpoint or a PEFT folder whose adapters to "
            "begin with, or nothing for new ones"
        )


def _check_shards(setting: str, name: str) -> None:
    if "://" in name:
        return  # an address is asked when the job starts
    folder = Path(name)
    if folder.is_file():
        raise SettingsError(
            f"{setting}: {name} is a file, expected a folder of shards: make one with editcaption shards --input "
            f"{name} --output DIR"
        )
    if not folder.is_dir():
        several = f"; several folders are written as {setting}=[A,B]" if "," in name else ""
        raise SettingsError(f"{setting}: {name}: no such folder of shards{several}")
    if not (folder / "index.json").is_file():
        raise SettingsError(f"{setting}: {name} has no index.json: make the folder with editcaption shards")


def _check_reference(settings: DPOSettings) -> None:
    reference = settings.reference
    if reference.file and not Path(reference.file).is_file():
        raise SettingsError(
            f"reference.file={reference.file} does not exist: write it with editcaption log-probs, or leave "
            "reference.file empty and the job writes its own"
        )
    if reference.checkpoint and not Path(reference.checkpoint).is_dir():
        raise SettingsError(
            f"reference.checkpoint={reference.checkpoint}: no such folder; expected a checkpoint, a run folder or a "
            "Hugging Face folder"
        )


def _check_output(name: str) -> None:
    """The run folder can be made and written."""
    path = Path(name)
    if path.exists() and not path.is_dir():
        raise SettingsError(f"training.output={name} is a file: name a folder")
    for folder in (path, *path.absolute().parents):
        if folder.exists():
            break
    if not folder.is_dir():
        raise SettingsError(f"training.output={name}: {folder} is a file, so no folder can be made in it")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise SettingsError(f"training.output={name}: {folder} cannot be written by this user: choose another folder")
