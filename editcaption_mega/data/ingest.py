"""From rows to shards: what `make_shards` does with every row an importer gives."""

import json
import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from editcaption_mega.data.images import DEFAULT_MAX_PIXELS, ImageError, bake
from editcaption_mega.data.importers import Candidate, Rejected
from editcaption_mega.data.shard_index import ShardError
from editcaption_mega.data.shard_writer import (
    BYTES_PER_SHARD,
    REJECTED_NAME,
    SAMPLES_PER_SHARD,
    DuplicateIdError,
    ShardWriter,
)
from editcaption_mega.records import EditPair

NO_INSTRUCTION = "no 'instruction' (nor 'chosen' and 'rejected'): nothing to train on"


# Shares of the categories that the paper's data has (section 4.1).
QUOTA = {"semantic": 0.25, "stylistic": 0.25, "structural": 0.5}


@dataclass
class IngestReport:
    """What became of the rows. `reasons` counts rejections by the kind of their cause, `categories` accepted pairs."""

    accepted: int = 0
    rejected: int = 0
    re_encoded: int = 0
    shards: int = 0
    fingerprint: str = ""
    reasons: Counter = field(default_factory=Counter)
    categories: Counter = field(default_factory=Counter)

    @property
    def rejected_share(self) -> float:
        rows = self.accepted + self.rejected
        return self.rejected / rows if rows else 0.0

    def quota(self) -> list[str]:
        """One line per category: pairs, share, and the paper's share."""
        lines = []
        for name, wanted in QUOTA.items():
            share = self.categories[name] / max(1, self.accepted)
            lines.append(f"{name}: {self.categories[name]:,} pairs, {share:.1%} (paper: {wanted:.0%})")
        return lines


def ingest(
    rows: Iterable[Candidate | Rejected],
    output: str | os.PathLike,
    *,
    require_instruction: bool = True,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    samples_per_shard: int = SAMPLES_PER_SHARD,
    bytes_per_shard: int = BYTES_PER_SHARD,
) -> IngestReport:
    """Check every row, bake its images and write the accepted ones as shards to `output`.

    A row that can't be used goes to `output/rejected.jsonl` ({"line", "id", "reason"} a line) and the work goes on.
    `require_instruction` rejects rows that carry neither an instruction nor a preference. An image that had to be
    re-encoded is named in the pair's provenance, under "images", with the sha256 of its original bytes.
    Raises ShardError if `output` isn't empty, or if no row was accepted: then only rejected.jsonl is left there.
    """
    report = IngestReport()
    rejected_path = Path(output) / REJECTED_NAME
    with ShardWriter(output, samples_per_shard=samples_per_shard, bytes_per_shard=bytes_per_shard) as writer:
        try:
            with open(rejected_path, "w", encoding="utf-8") as rejected_file:
                for row in rows:
                    if isinstance(row, Candidate):
                        row = _add(writer, row, require_instruction, max_pixels, report)
                    if row is not None:
                        report.rejected += 1
                        report.reasons[_kind(row.reason)] += 1
                        line = {"line": row.row, "id": row.id, "reason": row.reason}
                        rejected_file.write(json.dumps(line, ensure_ascii=False) + "\n")
            if not len(writer):
                raise ShardError(_nothing(report, rejected_path))
            index = writer.close()
        except BaseException:
            if not report.rejected:
                rejected_path.unlink(missing_ok=True)
            raise
    report.accepted, report.shards, report.fingerprint = len(writer), len(index.shards), index.fingerprint
    return report


def _add(
    writer: ShardWriter, row: Candidate, require_instruction: bool, max_pixels: int, report: IngestReport
) -> Rejected | None:
    pair: EditPair = row.pair
    if require_instruction and pair.instruction is None and pair.chosen is None:
        return Rejected(row.row, pair.id, NO_INSTRUCTION)
    try:
        source = bake(row.source, max_pixels=max_pixels, where="source image")
        target = bake(row.target, max_pixels=max_pixels, where="target image")
        changed = {
            which: {"notes": baked.notes, "original_sha256": sha256(original).hexdigest()}
            for which, baked, original in (("source", source, row.source), ("target", target, row.target))
            if baked.notes
        }
        if changed:
            pair = pair.model_copy(update={"provenance": {**pair.provenance, "images": changed}})
        writer.add(pair, source.data, source.extension, target.data, target.extension)
        report.categories[pair.category] += 1
    except (ImageError, DuplicateIdError) as error:
        return Rejected(row.row, pair.id, str(error))
    report.re_encoded += len(changed)
    return None


def _kind(reason: str) -> str:
    """A reason without what is particular to its row: sizes, what stands in brackets, quoted paths and ids."""
    reason = re.sub(r"\s*\([^)]*\)", "", reason)
    reason = re.sub(r"\b\d+ x \d+\b|\b\d+ pixels are\b", "image", reason, count=1)
    return re.sub(r"'[^']*[/.][^']*'|(?<=id )'[^']*'", "...", reason)


def _nothing(report: IngestReport, rejected: Path) -> str:
    if not report.rejected:
        return "the input holds no rows, so no set was written"
    reasons = "; ".join(f"{count} x {reason}" for reason, count in report.reasons.most_common(3))
    return f"none of the {report.rejected} rows was accepted, so no set was written: {reasons} (each is in {rejected})"
