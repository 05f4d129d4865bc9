"""From rows to shards: what `make_shards` does with every row an importer gives."""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from editcaption_mega.data.images.decode import DEFAULT_MAX_PIXELS, decode_image
from editcaption_mega.data.importers import Candidate, Rejected
from editcaption_mega.data.remote_files import FetchError
from editcaption_mega.data.shards.layout import IndexedSample, ShardError, ShardFile
from editcaption_mega.data.shards.pair_checks import Look, PairChecks, PairLook, Remark, refused_first
from editcaption_mega.data.shards.tar import parse_pair
from editcaption_mega.data.shards.writer import (
    REJECTED_NAME,
    SAMPLES_PER_SHARD,
    WARNINGS_NAME,
    DuplicateIdError,
    ShardWriter,
)
from editcaption_mega.files import naming

from .journal import Journal
from .prepared_rows import PreparedRow, prepared_rows
from .report import ImportReport, kind_of

NO_INSTRUCTION = (
    "no 'instruction' (nor 'chosen' and 'rejected'): nothing to train on; pairs that are to be captioned are imported "
    "with --allow-missing-instruction"
)
# What is no fault of a row: the shards that are finished wait for the same command.
_GOES_ON_AFTER = (ChildProcessError, FetchError)


@dataclass(frozen=True)
class ImportRun:
    """How an import is run: `workers` processes share the work on pictures, and the shards are the same for any number;
    identity: whatever the rows depend on, as text, so that an import of the same that was killed there goes on behind
    its last finished shard (None: it begins again)."""

    workers: int = 1
    identity: str | None = None


def ingest(
    rows: Iterable[Candidate | Rejected],
    output: str | os.PathLike[str],
    *,
    require_instruction: bool = True,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    samples_per_shard: int = SAMPLES_PER_SHARD,
    strict: bool = False,
    most_rejected: float = 1.0,
    run: ImportRun = ImportRun(),  # noqa: B008 (cannot change)
) -> ImportReport:
    """Check every row, bake its images and write the accepted ones as shards to `output`.

    A row that can't be used goes to `output/rejected.jsonl` ({"line", "id", "reason"} a line) and the work goes on;
    what is doubtful about an accepted one (see pair_checks) to `output/warnings.jsonl` ({"line", "id", "warning"}).
    `require_instruction` rejects rows that carry neither an instruction nor a preference. An image that had to be
    re-encoded is named in the pair's provenance, under "images", with the sha256 of its original bytes.
    Raises ShardError if `output` isn't empty; if no row was accepted, or a larger share rejected than `most_rejected`
    (0 .. 1), or `strict` and any row rejected or warned of: then only the two lists are left there.
    """
    folder, identity = Path(output), None
    if run.identity is not None:
        identity = json.dumps([run.identity, require_instruction, max_pixels, samples_per_shard])
    journal = Journal(folder, identity)
    goes_on_after, checks = _GOES_ON_AFTER if identity else (), PairChecks()

    def remember(tar: Path, samples: list[IndexedSample]) -> None:
        """What later pairs are compared with, of those in a shard that is kept."""
        with open(tar, "rb") as file:
            for sample in samples:
                checks.keep(_kept_look(file.fileno(), sample))

    with ShardWriter(
        output,
        samples_per_shard=samples_per_shard,
        kept=journal.kept,
        on_kept=remember,
        goes_on_after=goes_on_after,
    ) as writer:
        report = journal.report()
        journal.begin()
        with _Listed(folder, writer) as listed:
            importing = _Import(writer, checks, require_instruction, report, listed, journal)
            importing.add_all(rows, max_pixels, run.workers)
            report.accepted = len(writer)
            if problem := report.refusal(folder, strict, most_rejected):
                raise ShardError(problem)
        index = writer.close()
    report.shards, report.fingerprint = len(index.shards), index.fingerprint
    return report


class _Import:
    """Adds rows to a set, one at a time."""

    def __init__(
        self,
        writer: ShardWriter,
        checks: PairChecks,
        require_instruction: bool,
        report: ImportReport,
        listed: "_Listed",
        journal: Journal,
    ):
        self.writer, self.checks, self.require_instruction = writer, checks, require_instruction
        self.report, self.listed, self.journal = report, listed, journal

    def add_all(self, rows: Iterable[Candidate | Rejected], max_pixels: int, workers: int) -> None:
        """Add the rows behind those of the shards that are kept; each shard that is finished is noted."""
        self.writer.on_shard = self._note
        for row, prepared in prepared_rows(self.journal.rest(iter(rows)), max_pixels, workers):
            rejected = self.add(row, prepared) if isinstance(row, Candidate) and prepared else row
            if isinstance(rejected, Rejected):
                self.report.rejected += rejected.count
                self.report.reasons[rejected.kind or kind_of(rejected.reason)] += rejected.count
                line = {"line": rejected.number, "id": rejected.id, "reason": rejected.reason}
                self.listed.add(REJECTED_NAME, line)
            self.journal.passed(row)
        self.writer.on_shard = lambda shard: None  # the last one is whole with the set

    def _note(self, shard: ShardFile) -> None:
        self.listed.flush()
        self.journal.shard(shard, self.report)

    def add(self, row: Candidate, prepared: PreparedRow) -> Rejected | None:
        """Write the row's pair, or say why not."""
        try:
            self.writer.check_id(row.pair.id)
        except DuplicateIdError as error:
            return Rejected(row.number, row.pair.id, str(error))
        if self.require_instruction and row.pair.instruction is None and row.pair.chosen is None:
            return Rejected(row.number, row.pair.id, NO_INSTRUCTION)
        if prepared.problem is not None:
            return Rejected(row.number, row.pair.id, prepared.problem)
        assert prepared.look is not None, "both pictures were read"
        remarks = refused_first([*prepared.own, *self.checks.repeats(prepared.look)])
        if remarks and remarks[0].refused:
            return Rejected(row.number, row.pair.id, remarks[0].text, kind=remarks[0].kind)
        if prepared.sample is None:
            return Rejected(row.number, row.pair.id, prepared.late or "")
        self.writer.add_encoded(prepared.sample)
        self.checks.keep(prepared.look)
        self._count(row, prepared, [*remarks, *prepared.remarks])
        return None

    def _count(self, row: Candidate, prepared: PreparedRow, remarks: list[Remark]) -> None:
        self.report.categories[row.pair.category] += 1
        self.report.re_encoded += prepared.changed
        self.report.warned += bool(remarks)
        for remark in remarks:
            self.report.warnings[remark.kind] += 1
            self.listed.add(WARNINGS_NAME, {"line": row.number, "id": row.pair.id, "warning": remark.text})


def _kept_look(file: int, sample: IndexedSample) -> PairLook:
    source, target, record = (
        os.pread(file, member.bytes, member.offset) for member in (sample.source, sample.target, sample.json)
    )
    before, after = (Look.of(decode_image(data, where=sample.id)) for data in (source, target))
    return PairLook.of(parse_pair(record, sample.id), before, after)


class _Listed:
    """The files beside the shards that list rows. Empty ones go, but for that of the rejected rows of a set."""

    def __init__(self, folder: Path, writer: ShardWriter):
        self._files, self._writer = {}, writer
        mode = "a" if writer.goes_on else "w"
        for name in (REJECTED_NAME, WARNINGS_NAME):
            # A path may hold half a character, as bytes that are no UTF-8 come out of the file system.
            self._files[name] = open(folder / name, mode, encoding="utf-8", errors="backslashreplace")  # noqa: SIM115

    def __enter__(self) -> "_Listed":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        empty = []
        for file in self._files.values():
            with naming(file.name):
                if not file.tell():
                    empty.append(file.name)
                file.close()
        for path in map(Path, empty):
            if not self._writer.waits_after(kind) and (kind is not None or path.name != REJECTED_NAME):
                path.unlink()

    def flush(self) -> None:
        for file in self._files.values():
            with naming(file.name):
                file.flush()
                os.fsync(file.fileno())

    def add(self, name: str, line: dict[str, Any]) -> None:
        with naming(self._files[name].name):
            self._files[name].write(json.dumps(line, ensure_ascii=False) + "\n")
