"""Rows of sets that are folders with a list of their own: InstructPix2Pix's, and those that `datasets` saves."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from editcaption_mega.data.importers.candidates import InputError
from editcaption_mega.data.importers.table_cells import Lost, Row
from editcaption_mega.files import parse_json
from editcaption_mega.records import shown

SEEDS = "seeds.json"
STATE, SPLITS = "state.json", "dataset_dict.json"


def seed_rows(path: Path) -> Iterator[Row | Lost]:
    """One row per seed of `seeds.json`, [[folder, [seed, ..]], ..], as Brooks et al. (2023) publish their pairs: the
    fields of the folder's prompt.json, `image_0` and `image_1` (paths from seeds.json on), `folder` and `seed`."""
    for entry in _seeds(path):
        try:
            folder, seeds = entry
            prompt = _object(path.parent / str(folder) / "prompt.json")
            rows = [
                prompt
                | {"folder": str(folder), "seed": str(seed)}
                | {f"image_{side}": f"{folder}/{seed}_{side}.jpg" for side in (0, 1)}
                for seed in seeds
            ]
        except (TypeError, ValueError) as error:
            is_entry = isinstance(entry, list) and len(entry) == 2 and isinstance(entry[1], list)
            words = error if is_entry else f"expected [folder, [seed, ..]], found {shown(str(entry)[:100])}"
            yield Lost(f"{path.name}: {words}", len(entry[1]) if is_entry and entry[1] else 1)
            continue
        yield from map(Row.of, rows)


def seed_count(path: Path) -> int:
    return sum(
        max(1, len(entry[1])) if isinstance(entry, list) and len(entry) == 2 and isinstance(entry[1], list) else 1
        for entry in _seeds(path)
    )


def _seeds(path: Path) -> list[Any]:
    try:
        entries = parse_json(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path} is {error}") from None
    if not isinstance(entries, list):
        raise InputError(f"{path} holds {type(entries).__name__}, expected [[folder, [seed, ..]], ..]")
    return entries


def _object(path: Path) -> dict[str, Any]:
    name = shown(f"{path.parent.name}/{path.name}")
    try:
        value = parse_json(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{name} can't be read: {error.strerror or error}") from None
    except ValueError as error:
        raise ValueError(f"{name} is {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{name} holds {type(value).__name__}, expected an object")
    return value


def saved_files(root: Path) -> list[Path] | None:
    """The Arrow files of what `Dataset.save_to_disk` wrote, as its state lists them: beside them caches may lie. None
    for any other folder. Raises InputError for several splits, a selection of rows, and a file that is not there."""
    if (root / SPLITS).is_file():
        splits = _state(root / SPLITS).get("splits")
        names = [str(name) for name in splits] if isinstance(splits, list) else []
        if len(names) == 1 and _is_name(names[0]):
            return _listed_files(root / names[0])
        raise InputError(
            f"{root} holds the splits {', '.join(map(shown, names))[:300] or '(none)'}: name the folder of one, as "
            "pairs to train on and to evaluate on are never mixed"
        )
    return _listed_files(root) if (root / STATE).is_file() else None


def _listed_files(root: Path) -> list[Path]:
    state = _state(root / STATE)
    listed = state.get("_data_files")
    if state.get("_indices_data_files"):
        raise InputError(
            f"{root} holds a selection of the rows of its files: load it, and save what flatten_indices() gives"
        )
    files = [
        root / str(entry["filename"])
        for entry in (listed if isinstance(listed, list) else [])
        if isinstance(entry, dict) and "filename" in entry
    ]
    if not files:
        raise InputError(f"{root / STATE} lists no files: expected what Dataset.save_to_disk writes")
    for file in files:
        if not _is_name(file.name) or file.parent != root or not file.is_file():
            raise InputError(f"{root / STATE} lists {shown(file.name)}, which is not beside it: copy the whole folder")
    return files


def _is_name(name: str) -> bool:
    """Whether a file or folder beside may be called that."""
    return 0 < len(os.fsencode(name)) < 256 and name not in (".", "..") and not {"/", "\0"} & set(name)


def _state(path: Path) -> dict[str, Any]:
    try:
        return _object(path)
    except ValueError as error:
        raise InputError(f"{path.parent}: {error}") from None
