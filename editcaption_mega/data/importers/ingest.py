"""From rows to shards: what `make_shards` does with every row an importer gives."""

import json
import os
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any

from editcaption_mega.data.images.decode import DEFAULT_MAX_PIXELS, ImageError, read_picture
from editcaption_mega.data.importers import Candidate, Rejected
from editcaption_mega.data.shards.layout import ShardError
from editcaption_mega.data.shards.pair_checks import Look, PairChecks, Remark
from editcaption_mega.data.shards.writer import (
    BYTES_PER_SHARD,
    REJECTED_NAME,
    SAMPLES_PER_SHARD,
    WARNINGS_NAME,
    DuplicateIdError,
    ShardWriter,
)
from editcaption_mega.files import naming
from editcaption_mega.records import EditPair, RecordError

from .report import ImportReport, kind_of

NO_INSTRUCTION = "no 'instruction' (nor 'chosen' and 'rejected'): nothing to train on"


def ingest(
    rows: Iterable[Candidate | Rejected],
    output: str | os.PathLike[str],
    *,
    require_instruction: bool = True,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    samples_per_shard: int = SAMPLES_PER_SHARD,
    bytes_per_shard: int = BYTES_PER_SHARD,
    strict: bool = False,
    most_rejected: float = 1.0,
) -> ImportReport:
    """Check every row, bake its images and write the accepted ones as shards to `output`.

    A row that can't be used goes to `output/rejected.jsonl` ({"line", "id", "reason"} a line) and the work goes on;
    what is doubtful about an accepted one (see pair_checks) to `output/warnings.jsonl` ({"line", "id", "warning"}).
    `require_instruction` rejects rows that carry neither an instruction nor a preference. An image that had to be
    re-encoded is named in the pair's provenance, under "images", with the sha256 of its original bytes.
    Raises ShardError if `output` isn't empty; if no row was accepted, or a larger share rejected than `most_rejected`
    (0 .. 1), or `strict` and any row rejected or warned of: then only the two lists are left there.
    """
    report = ImportReport()
    with ShardWriter(output, samples_per_shard=samples_per_shard, bytes_per_shard=bytes_per_shard) as writer:
        with _Listed(Path(output)) as listed:
            importing = _Import(writer, require_instruction, max_pixels, report)
            for row in rows:
                if isinstance(row, Candidate):
                    row = importing.add(row, listed)
                if row is not None:
                    report.rejected += row.count
                    report.reasons[row.kind or kind_of(row.reason)] += row.count
                    listed.add(REJECTED_NAME, {"line": row.number, "id": row.id, "reason": row.reason})
            report.accepted = len(writer)
            if problem := report.refusal(Path(output), strict, most_rejected):
                raise ShardError(problem)
        index = writer.close()
    report.shards, report.fingerprint = len(index.shards), index.fingerprint
    return report


class _Import:
    """Adds rows to a set, one at a time."""

    def __init__(self, writer: ShardWriter, require_instruction: bool, max_pixels: int, report: ImportReport):
        self.writer, self.require_instruction, self.max_pixels = writer, require_instruction, max_pixels
        self.report, self.checks = report, PairChecks()

    def add(self, row: Candidate, listed: "_Listed") -> Rejected | None:
        """Write the row's pair, or say why not."""
        pair: EditPair = row.pair
        try:
            self.writer.check_id(pair.id)
            if self.require_instruction and pair.instruction is None and pair.chosen is None:
                raise RecordError(NO_INSTRUCTION)
            changed, baked, looks = {}, [], []
            for i, (side, data) in enumerate((("source", row.source), ("target", row.target))):
                try:
                    picture = read_picture(data, max_pixels=self.max_pixels, where=f"{side} image")
                except ImageError as error:
                    raise ImageError(f"{error} ({row.paths[i]})" if row.paths else str(error)) from None
                looks.append(Look.of(picture.rgb))
                baked.append(picture.baked())
                if picture.notes:
                    changed[side] = {"notes": baked[-1].notes, "original_sha256": sha256(data).hexdigest()}
            remarks = self.checks.check(pair, *looks)
            if remarks and remarks[0].refused:
                return Rejected(row.number, pair.id, remarks[0].text, kind=remarks[0].kind)
            if changed:
                provenance, renamed = _with_images(pair.provenance, changed)
                pair = pair.model_copy(update={"provenance": provenance})
                remarks += renamed
            (source, source_extension, _), (target, target_extension, _) = baked
            self.writer.add(pair, source, source_extension, target, target_extension)
        except (ImageError, DuplicateIdError, RecordError) as error:
            return Rejected(row.number, pair.id, str(error))
        self.checks.keep(pair, *looks)
        self._count(row, pair, remarks, len(changed), listed)
        return None

    def _count(self, row: Candidate, pair: EditPair, remarks: list[Remark], changed: int, listed: "_Listed") -> None:
        self.report.categories[pair.category] += 1
        self.report.re_encoded += changed
        self.report.warned += bool(remarks)
        for remark in remarks:
            self.report.warnings[remark.kind] += 1
            listed.add(WARNINGS_NAME, {"line": row.number, "id": pair.id, "warning": remark.text})


class _Listed:
    """The files beside the shards that list rows. Empty ones go, but for that of the rejected rows of a set."""

    def __init__(self, folder: Path):
        self._files = {}
        for name in (REJECTED_NAME, WARNINGS_NAME):
            # A path may hold half a character, as bytes that are no UTF-8 come out of the file system.
            self._files[name] = open(folder / name, "w", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115

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
            if kind is not None or path.name != REJECTED_NAME:
                path.unlink()

    def add(self, name: str, line: dict[str, Any]) -> None:
        with naming(self._files[name].name):
            self._files[name].write(json.dumps(line, ensure_ascii=False) + "\n")


def _with_images(provenance: dict[str, Any], images: dict[str, Any]) -> tuple[dict[str, Any], list[Remark]]:
    """The provenance with what was done to the images; what the user keeps under that name gets another."""
    if "images" not in provenance:
        return provenance | {"images": images}, []
    name = "images_before"
    while name in provenance:
        name += "_before"
    kind = "provenance.images is needed for what an import does to pictures"
    remark = Remark(kind, f"{kind}: what it held is now provenance.{name}")
    return provenance | {name: provenance["images"], "images": images}, [remark]
