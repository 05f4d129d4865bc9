"""Rows of parquet files, and of Arrow files as `datasets` saves them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from editcaption_mega.data.importers.candidates import InputError
from editcaption_mega.data.importers.table_cells import Lost, Row
from editcaption_mega.words import one_line, words_of_error

ROWS_AT_ONCE = 16  # pictures in memory


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
        raise InputError(f"{path} is not a readable parquet file: {words_of_error(error)}") from None


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
            where = f"row group {group} is damaged: {words_of_error(error)}"
            yield Lost(f"{lost} row(s) of {path.name} can't be read ({where})", lost)


def parquet_file_rows(path: Path) -> Iterator[Row | Lost]:
    with open_parquet(path) as file:
        yield from parquet_rows(file, path)


def parquet_count(path: Path) -> int:
    with open_parquet(path) as file:
        return int(file.metadata.num_rows)


def parquet_columns(path: Path) -> list[str]:
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
            raise InputError(f"{path} is not a readable Arrow file: {words_of_error(error)}") from None
        batches = (file.get_batch(i) for i in range(file.num_record_batches))
    try:
        for batch in batches:
            batch.validate(full=True)
            yield batch
    except (pyarrow.ArrowException, SystemError, MemoryError) as error:
        raise OSError(f"{path.name} is damaged: {words_of_error(error)}") from None


def arrow_rows(path: Path) -> Iterator[Row | Lost]:
    try:
        for batch in _arrow_batches(path):
            for i in range(batch.num_rows):
                yield arrow_row(batch, i)
    except OSError as error:
        yield Lost(f"the rest can't be read: {words_of_error(error)}")


def arrow_count(path: Path) -> int | None:
    try:
        return sum(int(batch.num_rows) for batch in _arrow_batches(path))
    except OSError:  # the rows say where
        return None


def arrow_columns(path: Path) -> list[str]:
    try:
        return next((list(batch.schema.names) for batch in _arrow_batches(path)), [])
    except OSError as error:
        raise InputError(f"{path}: {words_of_error(error)}") from None
