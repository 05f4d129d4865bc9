"""Tables in files of any kind: their rows by column.

A kind is one entry of `KINDS`: its suffixes, its rows, how many there are, and its columns where they are known before
the first row. Rows that a damaged place does not give are one `Lost`."""

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from editcaption_mega.data.importers.candidates import InputError, input_file
from editcaption_mega.data.importers.jsonl import object_of, rows_of_lines
from editcaption_mega.data.importers.table_columns import Row
from editcaption_mega.files import parse_json
from editcaption_mega.records import LARGEST_RECORD, shown
from editcaption_mega.words import one_line

ROWS_AT_ONCE = 16  # pictures in memory
_LARGEST_JSON = 4 << 30  # bytes of one JSON document, which is read whole
_TEXT_MEMBERS = ("txt", "text", "caption", "instruction")


class Lost(NamedTuple):
    """Rows that cannot be read, and why."""

    reason: str
    rows: int = 1


@dataclass(frozen=True)
class TableKind:
    """One kind of file. columns: None where each row has its own."""

    name: str
    suffixes: tuple[str, ...]
    rows: Callable[[Path], Iterator[Row | Lost]]
    count: Callable[[Path], int | None]
    columns: Callable[[Path], list[str]] | None = None


def table_files(path: str) -> tuple[TableKind, list[Path]]:
    """The file, or those of a folder in the order of their names, which are of one kind. Raises InputError."""
    root = Path(path)
    if not root.exists():
        raise InputError(f"{path}: no such file or folder")
    if not root.is_dir():
        file = input_file(path)
        kind = _kind(file)
        if kind is None:
            known = ", ".join(suffix for kind in KINDS for suffix in kind.suffixes)
            raise InputError(f"{path} is no table that is known here: expected a file that ends with {known}")
        return kind, [file]
    by_kind: dict[str, tuple[TableKind, list[Path]]] = {}
    for file in sorted(filter(Path.is_file, root.rglob("*"))):
        if (kind := _kind(file)) is not None:
            by_kind.setdefault(kind.name, (kind, []))[1].append(file)
    for first, beside in _BESIDE.items():
        if first in by_kind:
            for name in beside:
                by_kind.pop(name, None)
    if not by_kind:
        known = ", ".join(kind.name for kind in KINDS)
        raise InputError(f"{path}: expected tables in this folder ({known}), found none")
    if len(by_kind) > 1:
        found = " and ".join(f"{len(files)} x {name}" for name, (_, files) in by_kind.items())
        raise InputError(f"{path} holds {found}: name the file, or a folder with one kind")
    return next(iter(by_kind.values()))


def _kind(path: Path) -> TableKind | None:
    return next((kind for kind in KINDS if path.name.lower().endswith(kind.suffixes)), None)


def arrow_row(batch: Any, i: int) -> Row:
    """A row of a pyarrow record batch, whose cells are read when they are asked for."""
    from pyarrow import ArrowException

    def value(name: str) -> Any:
        try:
            return batch.column(name)[i].as_py()
        except (ArrowException, ValueError, OverflowError, TypeError, NotImplementedError) as error:
            raise ValueError(f"column {name!r} can't be read ({one_line(str(error))})") from None

    return Row(batch.schema.names, value)


def open_parquet(path: Path) -> Any:
    """The open file, whose columns can be read. Raises InputError."""
    import pyarrow.parquet as parquet
    from pyarrow import ArrowException

    try:
        file = parquet.ParquetFile(path)
        file.schema_arrow  # noqa: B018  a damaged one is found when it is asked for
        return file
    except (ArrowException, OSError, ValueError, TypeError, MemoryError) as error:
        raise InputError(f"{path} is not a readable parquet file: {_words(error)}") from None


def parquet_rows(file: Any, path: Path, names: list[str] | None = None) -> Iterator[Row | Lost]:
    """The rows of an open file, with these columns (None: all). What a damaged row group does not give is lost."""
    from pyarrow import ArrowException

    for group in range(file.num_row_groups):
        rows, done = file.metadata.row_group(group).num_rows, 0
        try:
            for batch in file.iter_batches(ROWS_AT_ONCE, row_groups=[group], columns=names):
                for i in range(batch.num_rows):
                    done += 1
                    yield arrow_row(batch, i)
        except (ArrowException, OSError, MemoryError) as error:
            lost = max(1, rows - done)
            where = f"row group {group} is damaged: {_words(error)}"
            yield Lost(f"{lost} row(s) of {path.name} can't be read ({where})", lost)


def _parquet_rows(path: Path) -> Iterator[Row | Lost]:
    with open_parquet(path) as file:
        yield from parquet_rows(file, path)


def _parquet_count(path: Path) -> int:
    with open_parquet(path) as file:
        return int(file.metadata.num_rows)


def _parquet_columns(path: Path) -> list[str]:
    with open_parquet(path) as file:
        return list(file.schema_arrow.names)


def _arrow_batches(path: Path) -> Iterator[Any]:
    """Of a file as `datasets` saves them: a stream, or the form with an index at its end. Each is checked whole before
    a cell is read: Arrow's own readers trust offsets. Raises InputError for another file, OSError for a damaged one."""
    import pyarrow

    source = pyarrow.memory_map(str(path))
    try:
        batches: Any = pyarrow.ipc.open_stream(source)
    except (pyarrow.ArrowException, OSError) as error:
        try:
            file = pyarrow.ipc.open_file(source)
        except (pyarrow.ArrowException, OSError):
            raise InputError(f"{path} is not a readable Arrow file: {_words(error)}") from None
        batches = (file.get_batch(i) for i in range(file.num_record_batches))
    try:
        for batch in batches:
            batch.validate(full=True)
            yield batch
    except (pyarrow.ArrowException, SystemError, MemoryError) as error:
        raise OSError(f"{path.name} is damaged: {_words(error)}") from None


def _arrow_rows(path: Path) -> Iterator[Row | Lost]:
    try:
        for batch in _arrow_batches(path):
            for i in range(batch.num_rows):
                yield arrow_row(batch, i)
    except OSError as error:
        yield Lost(f"the rest can't be read: {_words(error)}")


def _arrow_count(path: Path) -> int | None:
    try:
        return sum(int(batch.num_rows) for batch in _arrow_batches(path))
    except OSError:  # the rows say where
        return None


def _arrow_columns(path: Path) -> list[str]:
    try:
        return next((list(batch.schema.names) for batch in _arrow_batches(path)), [])
    except OSError as error:
        raise InputError(f"{path}: {_words(error)}") from None


def _csv_rows(path: Path) -> Iterator[Row | Lost]:
    with _csv(path) as reader:
        header: list[str] = next(reader, [])
        while True:
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error:  # its own words show the signs that it stumbled over
                yield Lost(
                    f"line {reader.line_num} of {path.name} is not valid CSV: a quote inside quotes is written twice"
                )
                continue
            if not cells:
                continue
            if len(cells) != len(header):
                yield Lost(
                    f"line {reader.line_num} of {path.name} has {len(cells)} cells, the first line {len(header)}: a "
                    "cell with a comma or a line's end needs quotes around it"
                )
            elif any(_half(cell) for cell in cells):
                yield Lost(f"line {reader.line_num} of {path.name} is not UTF-8: save the file as UTF-8")
            else:
                yield Row.of({name: cell or None for name, cell in zip(header, cells, strict=True)})


class _csv:
    """A reader of a file of cells between commas, semicolons or tabs. Raises InputError."""

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self) -> Any:
        csv.field_size_limit(LARGEST_RECORD)
        with open(self.path, "rb") as file:
            start = file.read(4096)
        if start.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in start:
            raise InputError(f"{self.path} is UTF-16, as Excel and PowerShell write it: save it as UTF-8")
        first = start.split(b"\n", 1)[0]
        delimiter = max(b",;\t|", key=lambda sign: first.count(bytes([sign])))
        if self.path.suffix.lower() == ".tsv":
            delimiter = ord("\t")
        self.file = open(self.path, encoding="utf-8-sig", errors="surrogateescape", newline="")
        return csv.reader(self.file, delimiter=chr(delimiter), strict=True)

    def __exit__(self, *_: object) -> None:
        self.file.close()


def _half(text: str) -> bool:
    return any("\udc80" <= sign <= "\udcff" for sign in text)


def _csv_columns(path: Path) -> list[str]:
    with _csv(path) as reader:
        return next(reader, [])


def _csv_count(path: Path) -> int:
    return sum(1 for _ in _csv_rows(path))


def _jsonl_rows(path: Path) -> Iterator[Row | Lost]:
    for number, line in rows_of_lines(str(path)):
        try:
            yield Row.of(object_of(line))
        except ValueError as error:
            yield Lost(f"line {number} of {path.name}: {error}")


def _json_rows(path: Path) -> Iterator[Row | Lost]:
    """The objects of a list, or of an object of objects, whose keys are then the column `key`."""
    for name, item in _json_items(path):
        if isinstance(item, dict):
            yield Row.of(item if name is None else {"key": name} | item)
        else:
            yield Lost(f"expected an object for each row of {path.name}, found {type(item).__name__}")


def _json_items(path: Path) -> list[tuple[str | None, Any]]:
    if path.stat().st_size > _LARGEST_JSON:
        raise InputError(f"{path} has more than 4 GiB, and a JSON document is read whole: write it as JSONL")
    try:
        document = parse_json(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path} is {error}") from None
    if isinstance(document, list):
        return [(None, item) for item in document]
    if isinstance(document, dict):
        inner = [value for value in document.values() if isinstance(value, list)]
        if len(inner) == 1 and not any(isinstance(value, dict) for value in document.values()):
            return [(None, item) for item in inner[0]]  # {"data": [..]}
        return list(document.items())
    raise InputError(f"{path} holds {type(document).__name__}, expected a list of objects, or an object of objects")


def _tar_rows(path: Path) -> Iterator[Row | Lost]:
    """The samples of a WebDataset tar: a column for each member, named by what follows the first dot of its name."""
    from webdataset.tariterators import group_by_keys, tar_file_iterator

    def files() -> Iterator[dict[str, Any]]:
        with open(path, "rb") as stream:
            for file in tar_file_iterator(stream):
                yield {**file, "__url__": str(path)}

    try:
        for sample in group_by_keys(files()):
            try:
                yield Row.of({name: _member(name, value) for name, value in sample.items() if name != "__url__"})
            except ValueError as error:
                yield Lost(f"sample {shown(str(sample.get('__key__')))} of {path.name}: {error}")
    except (
        Exception
    ) as error:  # of any type: the library's own, tarfile's, or ValueError for a name that is there twice
        yield Lost(f"the rest of {path.name} can't be read: {_words(error)}")


def _member(name: str, value: Any) -> Any:
    if not isinstance(value, bytes) or name.startswith("__"):
        return value
    kind = name.rsplit(".", 1)[-1].lower()
    if kind == "json":
        try:
            return parse_json(value)
        except ValueError as error:
            raise ValueError(f"member {name!r} is {error}") from None
    if kind in _TEXT_MEMBERS:
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            raise ValueError(f"member {name!r} is not UTF-8") from None
    return value


def _words(error: Exception) -> str:
    return one_line(str(error)) or type(error).__name__


KINDS = (
    TableKind("parquet", (".parquet",), _parquet_rows, _parquet_count, _parquet_columns),
    TableKind("arrow", (".arrow",), _arrow_rows, _arrow_count, _arrow_columns),
    TableKind("tar", (".tar",), _tar_rows, lambda path: None),
    TableKind("csv", (".csv", ".tsv"), _csv_rows, _csv_count, _csv_columns),
    TableKind("jsonl", (".jsonl", ".ndjson"), _jsonl_rows, lambda path: sum(1 for _ in rows_of_lines(str(path)))),
    TableKind("json", (".json",), _json_rows, lambda path: len(_json_items(path))),
)
# What lies beside tables of a kind and is none: what `datasets` and WebDataset's writers say of their files.
_BESIDE = {"arrow": ("json",), "tar": ("json", "jsonl"), "parquet": ("json",)}
