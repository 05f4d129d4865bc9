"""Tables that lie elsewhere: addresses of WebDataset tars and other files, each fetched whole before it is read.

Fetched by fsspec, one at a time into a temporary file, so that a network that fails is no damaged set, and a file needs
disk space once. No address ever runs a command: WebDataset's `pipe:` is refused, as is what is not known here."""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from editcaption_mega.data.importers.candidates import InputError
from editcaption_mega.data.remote_files import NoFileError, check_kind, fetch
from editcaption_mega.files import PARTIAL
from editcaption_mega.words import without_credentials

SCHEMES = ("http", "https", "s3", "gs", "hf")


@dataclass(frozen=True)
class Address:
    """Of a file elsewhere; `name` is that of the file."""

    url: str

    @property
    def name(self) -> str:
        return re.split(r"[?#]", self.url, maxsplit=1)[0].rstrip("/").rsplit("/", 1)[-1]

    def __str__(self) -> str:
        return without_credentials(self.url)


def addresses(path: str) -> list[Address] | None:
    """The addresses that an input names, `{000..031}` and `::` spelled out as WebDataset does; None for a path here.
    Raises InputError for a command or another scheme."""
    if path.startswith("pipe:") or "::pipe:" in path:
        raise InputError(f"{path[:200]}: a command is never run for an input: give the address itself")
    if not re.match(r"[A-Za-z][A-Za-z0-9+.\-]*://", path):
        return None
    from webdataset.shardlists import expand_urls

    urls = [str(url) for url in expand_urls(path)]
    for url in urls:
        if url.partition("://")[0].lower() not in SCHEMES or "://" not in url:
            known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
            raise InputError(f"{without_credentials(url)[:200]}: expected a path, or {known}..")
    for scheme in {url.partition("://")[0].lower() for url in urls}:
        try:
            check_kind(f"{scheme}://")
        except ValueError as error:
            raise InputError(str(error)) from None
    return [Address(url) for url in urls]


@contextmanager
def here(file: Path | Address) -> Iterator[Path]:
    """The file as a path: itself, or a copy that goes again. Raises InputError, FetchError."""
    if isinstance(file, Path):
        yield file
        return
    with tempfile.TemporaryDirectory(prefix="editcaption-") as folder:
        path = Path(folder) / file.name
        try:
            fetch(file.url, path.with_name(file.name + PARTIAL), lambda copy: copy.replace(path))
        except NoFileError as error:
            raise InputError(str(error)) from None
        yield path
