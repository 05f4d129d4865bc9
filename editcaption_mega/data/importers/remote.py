"""Tables that lie elsewhere: addresses of WebDataset tars and other files, each fetched whole before it is read.

Fetched by fsspec, one at a time into a temporary file, so that a network that fails is no damaged set, and a file needs
disk space once. No address ever runs a command: WebDataset's `pipe:` is refused, as is what is not known here."""

import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from editcaption_mega.data.importers.candidates import InputError
from editcaption_mega.words import without_credentials, words_of_error

SCHEMES = ("http", "https", "s3", "gs", "hf")
_ATTEMPTS = 4
_FIRST_WAIT = 1.0  # seconds, doubled each time


class FetchError(OSError):
    """A file that could not be fetched: the work failed, and can go on later."""


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
    return [Address(url) for url in urls]


@contextmanager
def here(file: Path | Address) -> Iterator[Path]:
    """The file as a path: itself, or a copy that goes again. Raises InputError, FetchError."""
    if isinstance(file, Path):
        yield file
        return
    with tempfile.TemporaryDirectory(prefix="editcaption-") as folder:
        path = Path(folder) / file.name
        _fetch(file, path)
        yield path


def _fetch(address: Address, path: Path) -> None:
    import fsspec

    try:
        system, inner = fsspec.core.url_to_fs(address.url)
    except (ImportError, ValueError) as error:
        raise InputError(f"{address} cannot be read: {words_of_error(error)}") from None
    for attempt in range(_ATTEMPTS):
        try:
            size = system.info(inner).get("size")
            system.get_file(inner, str(path))
            if size is not None and path.stat().st_size != size:
                raise OSError(f"{path.stat().st_size} of {size} bytes arrived")
            return
        except FileNotFoundError:
            raise InputError(f"{address}: no such file") from None
        except Exception as error:  # of any type: each file system has its own
            if attempt + 1 == _ATTEMPTS:
                words = without_credentials(words_of_error(error))
                raise FetchError(f"{address} could not be fetched in {_ATTEMPTS} attempts: {words}") from None
            time.sleep(_FIRST_WAIT * 2**attempt)
