"""A folder that is made file by file, and goes on where it was killed.

    OUTPUT.partial/
      plan.json          what is made, of what, with which settings
      content/           what becomes OUTPUT: files under their final names are whole
      records/NAME.json  size and sha256 of a file that is on the disk under its final name
      lock.json          while a process works here

A file is written under another name, brought to the disk, renamed, and then recorded. When all are there the content is
renamed to OUTPUT, and the rest removed.
"""

import json
import os
import shutil
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from editcaption_mega.files import PARTIAL, parse_json, place_problem, rename_whole, write_atomically
from editcaption_mega.settings import SettingsError

from ..manifest import StoredFile
from ..tensor_file import write_parts
from .output_files import OutputFile

_PLAN, _CONTENT, _RECORDS = "plan.json", "content", "records"


class PartialFolder:
    def __init__(self, output: Path):
        self.output = output
        self.path = output.parent / (output.name + PARTIAL)  # `with_name` has no words for "/"
        self.content, self._records = self.path / _CONTENT, self.path / _RECORDS

    @classmethod
    def of(cls, output: Path) -> "PartialFolder":
        """That of an output which may be a link: the folder that it points to is the one that is made."""
        return cls(output.resolve() if output.is_symlink() or not output.name else output)

    def refuse_unusable(self) -> None:
        """Raise SettingsError, before any work, where the content cannot become OUTPUT in the end."""
        problem = place_problem(self.path)
        if self.path.exists() and not self.path.is_dir():
            problem = f"{self.path}, where the work would be, is a file"
        elif os.path.ismount(self.output):
            problem = f"{self.output} is a mount point, which no other folder can replace (one in it can be made)"
        elif self.output.is_dir() and self.output.samefile(os.curdir):
            problem = f"{self.output} is the folder in which the command was given, which no other one can replace"
        if problem:
            raise SettingsError(f"{problem}: choose another folder, nothing was written")

    def remove_published(self) -> None:
        """Remove what a process left that was killed after it had published the content."""
        if (self.path / _PLAN).is_file() and not self.content.exists():
            shutil.rmtree(self.path, ignore_errors=True)

    def begin(self, plan: dict[str, Any], say: Callable[[str], None]) -> dict[str, StoredFile]:
        """Make the folder, or go on with one of the same plan -> the files that are whole. For one process alone, which
        holds the lock. Raises OSError."""
        recorded = self._recorded_plan()
        if recorded != plan:
            if recorded is not None or self.content.exists():
                say(f"{self.path} was begun from another source or with other settings: it is made anew")
            for part in (self.content, self._records):
                shutil.rmtree(part, ignore_errors=True)
        self.content.mkdir(parents=True, exist_ok=True)
        self._records.mkdir(exist_ok=True)
        for left in self.content.rglob(f"*{PARTIAL}"):
            left.unlink()
        if recorded != plan:
            write_atomically(self.path / _PLAN, json.dumps(plan, indent=1) + "\n")
        return dict(self._whole_files())

    def make(
        self, file: OutputFile, parts: Callable[[str], Iterator[Any]], *, digest: bool
    ) -> Generator[int, None, StoredFile]:
        """Write one file and record it, yielding how many bytes more are written. Any process may. Raises OSError,
        and what `parts` raises."""
        final = self.content / file.name
        temporary = final.with_name(f"{file.name}.{os.getpid()}{PARTIAL}")
        try:
            sha256 = yield from write_parts(
                temporary, file.forms, parts, metadata=file.metadata, digest=digest, direct=True
            )
            rename_whole(temporary, final)
        except Exception:
            temporary.unlink(missing_ok=True)  # room on a full disk
            raise
        record = StoredFile(bytes=final.stat().st_size, sha256=sha256)
        write_atomically(self._records / f"{file.name}.json", record.model_dump_json() + "\n")
        return record

    def forget(self, name: str) -> None:
        """Have a file made anew by whoever goes on. Raises OSError."""
        (self._records / f"{name}.json").unlink(missing_ok=True)

    def publish(self) -> None:
        """The content becomes OUTPUT. Raises OSError."""
        if self.output.is_dir():
            self.output.rmdir()
        rename_whole(self.content, self.output)
        shutil.rmtree(self.path, ignore_errors=True)

    def _recorded_plan(self) -> Any:
        try:
            return parse_json((self.path / _PLAN).read_bytes())
        except (OSError, ValueError):
            return None

    def _whole_files(self) -> Iterator[tuple[str, StoredFile]]:
        for path in sorted(self._records.glob("*.json")):
            try:
                record = StoredFile.model_validate_json(path.read_bytes())
                if (self.content / path.stem).stat().st_size == record.bytes:
                    yield path.stem, record
            except (OSError, ValidationError):
                continue  # it is made again
