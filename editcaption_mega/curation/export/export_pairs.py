"""Write a set in another form, whole or not at all."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from editcaption_mega.data.shards.reader import ShardReader
from editcaption_mega.files import PARTIAL, rename_whole
from editcaption_mega.lock import FolderLock
from editcaption_mega.progress import Progress, no_progress
from editcaption_mega.records.set_contents import Contents, license_of
from editcaption_mega.settings import SettingsError

from .card import data_card
from .export_forms import FORMS


def export_pairs(
    shards: ShardReader,
    form: str,
    output: Path,
    *,
    licenses: Sequence[str] | None = None,
    survival: Any = None,
    progress: Progress = no_progress,
) -> Contents:
    """The pairs of `shards` in a new folder, with a data card (README.md) -> what is in it.

    licenses: those that the pairs may have; None: any, and none. survival: what a filter said, for the card. A killed
    export begins again with the same command. Raises SettingsError for a folder that exists, ValueError for a pair that
    the form cannot hold or whose license is not among `licenses`; nothing is left then."""
    partial = output.with_name(output.name + PARTIAL)
    with _locked(output):
        if output.exists():
            raise SettingsError(f"{output} exists already, and nothing is overwritten: name another output folder")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            contents = _write(shards, form, partial, licenses, survival, progress)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        rename_whole(partial, output)
    return contents


@contextmanager
def _locked(output: Path) -> Iterator[None]:
    """The first thing that is written beside the output; where it cannot be, the output is what the user named."""
    lock = output.with_name(f".{output.name}.lock")
    holding = FolderLock(lock, "exporting", patience=0)
    try:
        holding.acquire()
    except OSError as error:
        raise SettingsError(
            f"{output} cannot be made ({error.strerror}): name an output in a folder that this user may write to"
        ) from None
    try:
        yield
    finally:
        holding.release()
        with suppress(OSError):  # of a killed export, which could not take it away; or another one waits there
            lock.rmdir()


def _write(
    shards: ShardReader, form: str, folder: Path, licenses: Sequence[str] | None, survival: Any, progress: Progress
) -> Contents:
    contents, writer = Contents(), FORMS[form](folder)
    for i in progress(range(len(shards)), len(shards), "pairs"):
        sample = shards[i]
        _check_license(sample.pair.id, license_of(sample.pair), licenses)
        writer.add(sample, sample.pair.instruction or sample.pair.chosen)
        contents.add(sample.pair)
    writer.close()
    card = data_card(contents, form, shards.fingerprint, writer.remarks, survival)
    (folder / "README.md").write_text(card, encoding="utf-8")
    return contents


def _check_license(name: str, own: str | None, allowed: Sequence[str] | None) -> None:
    if allowed is not None and (own is None or own.lower() not in {license.lower() for license in allowed}):
        raise ValueError(
            f"pair {name} has {f'the license {own!r}' if own else 'no license in its provenance'}, expected one of "
            f"{', '.join(allowed)}: filter such pairs out first"
        )
