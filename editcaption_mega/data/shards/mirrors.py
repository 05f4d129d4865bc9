"""Shards at an address (http, s3, hf, whatever fsspec reads): a folder of this machine that has their index, and
fetches a tar when it is first read. Everything else sees a folder.

What comes is checked against the index and fetched again where it is cut, damaged or refused. All processes of the
machine share the folder; the tars that were used last stay, up to the bytes that it may have.
"""

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from editcaption_mega.data.remote_files import FetchError, check_kind, fetch
from editcaption_mega.files import PARTIAL, parse_json, write_atomically
from editcaption_mega.words import without_credentials

from .index import COLUMNS_GLOB, INDEX_NAME, load_index
from .index_json import COLUMNS_NAME
from .layout import ADDRESS_NAME, ShardError, ShardFile, UnreachableError

_CHUNK = 1 << 20
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://\S+")


def is_address(folder: str | os.PathLike[str]) -> bool:
    return isinstance(folder, str) and _ADDRESS.fullmatch(folder) is not None


@dataclass(frozen=True)
class ShardCache:
    """Where shards of other machines are kept, and how much of them. folder: of all addresses; each gets its own."""

    folder: Path
    most_bytes: int = 100 << 30

    @classmethod
    def default(cls) -> "ShardCache":
        """In $EDITCAPTION_CACHE, else in the user's cache folder."""
        root = os.environ.get("EDITCAPTION_CACHE") or Path("~/.cache/editcaption_mega").expanduser()
        return cls(Path(root) / "shards")

    def local(self, folder: str | os.PathLike[str]) -> Path:
        """Where this folder is seen on this machine: itself, or for an address its folder in the cache."""
        if not is_address(folder):
            return Path(folder)
        name = re.sub(r"[^A-Za-z0-9]+", "-", without_credentials(str(folder)).rstrip("/"))[-60:].strip("-")
        return self.folder / f"{name}-{hashlib.sha256(str(folder).rstrip('/').encode()).hexdigest()[:12]}"

    def update(self, folder: str | os.PathLike[str]) -> Path:
        """`local`, with the index that the address has now. Raises ShardError where it has none that can be read."""
        local = self.local(folder)
        if not is_address(folder):
            return local
        try:
            check_kind(str(folder))
        except ValueError as error:
            raise ShardError(str(error)) from None
        local.mkdir(parents=True, exist_ok=True)
        mirror = Mirror(local, str(folder).rstrip("/"), self.most_bytes)
        with _locked(local / f"{INDEX_NAME}.lock"):
            mirror.fetch_index()
        return local


@dataclass(frozen=True)
class Mirror:
    """The folder of this machine for the shards at an address."""

    folder: Path
    address: str
    most_bytes: int

    @classmethod
    def of(cls, folder: Path) -> "Mirror | None":
        """None for any other folder."""
        try:
            content = parse_json((folder / ADDRESS_NAME).read_bytes())
            return cls(folder, str(content["address"]), int(content["most_bytes"]))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise ShardError(
                f"{folder / ADDRESS_NAME} is damaged ({error}): remove the folder, which is a cache"
            ) from None

    def fetch_index(self) -> None:
        """Bring the index up to date, and remove tars that it no longer means. Raises ShardError."""
        content = self._fetched(INDEX_NAME, _index_bytes)
        path = self.folder / INDEX_NAME
        about = json.dumps({"address": self.address, "most_bytes": self.most_bytes})
        write_atomically(self.folder / ADDRESS_NAME, about + "\n")
        (self.folder / ADDRESS_NAME).chmod(0o600)  # it may hold a password
        with suppress(ShardError):
            if path.is_file() and path.read_bytes() == content:
                load_index(self.folder)
                return
        for tar in self.folder.glob("*.tar"):
            tar.unlink()
        columns = parse_json(content).get("columns")

        def keep(fetched: Path | None) -> None:
            if fetched is not None:
                os.replace(fetched, self.folder / columns)
            write_atomically(path, content)
            load_index(self.folder)

        if isinstance(columns, str) and COLUMNS_NAME.fullmatch(columns):
            self._fetched(columns, keep)
        else:  # of an earlier version, or damaged
            keep(None)
        for other in self.folder.glob(COLUMNS_GLOB):
            if other.name != columns:
                other.unlink()

    def open(self, shard: ShardFile) -> int:
        """A descriptor of the whole tar, fetched first where it is not here. Raises ShardError."""
        path = self.folder / shard.name
        while True:
            with suppress(FileNotFoundError):
                descriptor = os.open(path, os.O_RDONLY)
                if os.fstat(descriptor).st_size == shard.bytes:
                    os.utime(descriptor)
                    return descriptor
                os.close(descriptor)  # somebody cut it
                path.unlink(missing_ok=True)
            with _locked(self.folder / f"{shard.name}.lock"):
                if not path.exists():
                    self._make_room(shard)
                    self._fetched(shard.name, lambda fetched: _keep(fetched, path, shard))

    def _make_room(self, shard: ShardFile) -> None:
        """Remove the tars that were used least lately. Another process that reads one keeps what it has open."""
        tars = []
        for path in self.folder.glob("*.tar"):
            with suppress(FileNotFoundError):
                status = path.stat()
                tars.append((status.st_mtime_ns, status.st_size, path))
        taken = sum(size for _, size, _ in tars) + shard.bytes
        for _, size, path in sorted(tars):
            if taken <= self.most_bytes:
                break
            path.unlink(missing_ok=True)
            taken -= size

    def _fetched[Value](self, name: str, use: Callable[[Path], Value]) -> Value:
        """What `use` makes of a file of the address, fetched again where it raises OSError or ValueError."""
        try:
            return fetch(f"{self.address}/{name}", self.folder / f"{name}.{os.getpid()}{PARTIAL}", use)
        except FetchError as error:
            raise UnreachableError(str(error)) from None


def _index_bytes(fetched: Path) -> bytes:
    """Raises ValueError for what is no index, such as a part of one."""
    content = fetched.read_bytes()
    if not isinstance(parse_json(content), dict):
        raise ValueError("no index of shards: expected the address of a folder made by editcaption shards")
    return content


def _keep(fetched: Path, path: Path, shard: ShardFile) -> None:
    """Raises ValueError for other content than the index says."""
    digest = hashlib.sha256()
    with open(fetched, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    size = fetched.stat().st_size
    if size != shard.bytes or digest.hexdigest() != shard.sha256:
        raise ValueError(f"{size} bytes came, whose sha256 is not that of the {shard.bytes} in the index")
    os.replace(fetched, path)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process of this machine at a time."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
