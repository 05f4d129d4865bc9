"""Kinds of files that hold tables, read row by row; what cannot be read is said, and the rest goes on.

A kind is one entry of `KINDS`: its suffixes, its rows, how many there are, and its columns where they are known before
the first row. Rows that a damaged place does not give are one `Lost`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from editcaption_mega.data.importers import table_arrow, table_text
from editcaption_mega.data.importers.candidates import InputError, input_file
from editcaption_mega.data.importers.jsonl import rows_of_lines
from editcaption_mega.data.importers.remote import Address, addresses
from editcaption_mega.data.importers.table_cells import Lost, Row
from editcaption_mega.data.importers.table_folders import SEEDS, saved_files, seed_count, seed_rows
from editcaption_mega.data.importers.table_tar import tar_rows


@dataclass(frozen=True)
class TableKind:
    """One kind of file. columns: None where each row has its own."""

    name: str
    suffixes: tuple[str, ...]
    rows: Callable[[Path], Iterator[Row | Lost]]
    count: Callable[[Path], int | None]
    columns: Callable[[Path], list[str]] | None = None


def table_files(path: str) -> tuple[TableKind, list[Path | Address]]:
    """The file, or those of a folder in the order of their names, which are of one kind; or the addresses that the
    input names. Raises InputError."""
    if (remote := addresses(path)) is not None:
        kinds = {kind.name: kind for address in remote if (kind := _known(address, str(address)))}
        if len(kinds) > 1:
            raise InputError(f"{path[:200]} names files of several kinds ({', '.join(kinds)}): name those of one")
        return next(iter(kinds.values())), list(remote)
    root = Path(path)
    if not root.exists():
        raise InputError(f"{path}: no such file or folder")
    if not root.is_dir():
        file = input_file(path)
        return _known(file, path), [file]
    if (saved := saved_files(root)) is not None:
        return _ARROW, list(saved)
    if (root / SEEDS).is_file():
        return _SEEDS, [root / SEEDS]
    return _in_folder(root)


def _in_folder(root: Path) -> tuple[TableKind, list[Path | Address]]:
    by_kind: dict[str, tuple[TableKind, list[Path | Address]]] = {}
    for file in sorted(file for file in root.rglob("*") if _kind(file) is not None and file.is_file()):
        kind = _known(file, str(file))
        by_kind.setdefault(kind.name, (kind, []))[1].append(file)
    for first, beside in _BESIDE.items():
        if first in by_kind:
            for name in beside:
                by_kind.pop(name, None)
    if not by_kind:
        known = ", ".join(kind.name for kind in KINDS)
        raise InputError(f"{root}: expected tables in this folder ({known}), found none")
    if len(by_kind) > 1:
        kinds = " and ".join(f"{len(files)} x {name}" for name, (_, files) in by_kind.items())
        raise InputError(f"{root} holds {kinds}: name the file, or a folder with one kind")
    return next(iter(by_kind.values()))


def _known(file: Path | Address, shown_as: str) -> TableKind:
    if (kind := _kind(file)) is None:
        known = ", ".join(suffix for kind in KINDS for suffix in kind.suffixes)
        raise InputError(f"{shown_as} is no table that is known here: expected a file that ends with {known}")
    return kind


def _kind(file: Path | Address) -> TableKind | None:
    if file.name == SEEDS:
        return _SEEDS
    return next((kind for kind in KINDS if file.name.lower().endswith(kind.suffixes)), None)


_ARROW = TableKind("arrow", (".arrow",), table_arrow.arrow_rows, table_arrow.arrow_count, table_arrow.arrow_columns)
_SEEDS = TableKind("seeds", (SEEDS,), seed_rows, seed_count)
KINDS = (
    TableKind(
        "parquet",
        (".parquet",),
        table_arrow.parquet_file_rows,
        table_arrow.parquet_count,
        table_arrow.parquet_columns,
    ),
    _ARROW,
    TableKind("tar", (".tar",), tar_rows, lambda path: None),
    TableKind("csv", (".csv", ".tsv"), table_text.csv_rows, table_text.csv_count, table_text.csv_columns),
    TableKind(
        "jsonl", (".jsonl", ".ndjson"), table_text.jsonl_rows, lambda path: sum(1 for _ in rows_of_lines(str(path)))
    ),
    TableKind("json", (".json",), table_text.json_rows, lambda path: len(table_text.json_items(path))),
)
# What lies beside tables of a kind and is none: what `datasets` and WebDataset's writers say of their files.
_BESIDE = {"arrow": ("json",), "tar": ("json", "jsonl"), "parquet": ("json",)}
