"""What can be done with a row apart from all others, in processes of their own: pictures decoded, checked and baked,
the sample in the form that it has in a tar. Rows come back in their order, so shards do not depend on the processes."""

from collections.abc import Iterable, Iterator
from functools import partial
from hashlib import sha256
from itertools import islice
from typing import Any, NamedTuple

from editcaption_mega.data.images.decode import ImageError, read_picture
from editcaption_mega.data.importers.candidates import Candidate, Rejected
from editcaption_mega.data.shards.pair_checks import Look, PairLook, Remark, own_remarks
from editcaption_mega.data.shards.sample_bytes import TarSample, encoded_sample
from editcaption_mega.process_pool import ProcessPool, cores
from editcaption_mega.records import RecordError

_ROWS_AT_ONCE = 32  # that a process gets
_BYTES_AT_ONCE = 8 << 20  # of pictures, of which a process gets no more unless one row has them


class PreparedRow(NamedTuple):
    """A candidate that is ready for a shard, or why it is not: `problem` of its pictures, `late` of its record, which
    counts only where the checks of the pair have nothing against it. `own`: what there is to say of the pair whatever
    the others are; `look`: what it and they are compared by; `remarks`: what comes behind these."""

    look: PairLook | None = None
    own: tuple[Remark, ...] = ()
    changed: int = 0
    remarks: tuple[Remark, ...] = ()
    sample: TarSample | None = None
    problem: str | None = None
    late: str | None = None


def prepared_row(row: Candidate, max_pixels: int) -> PreparedRow:
    changed, baked, looks = {}, [], []
    for i, (side, data) in enumerate((("source", row.source), ("target", row.target))):
        try:
            picture = read_picture(data, max_pixels=max_pixels, where=f"{side} image")
        except ImageError as error:
            return PreparedRow(problem=f"{error} ({row.paths[i]})" if row.paths else str(error))
        looks.append(Look.of(picture.rgb))
        baked.append(picture.baked())
        if picture.notes:
            changed[side] = {"notes": baked[-1].notes, "original_sha256": sha256(data).hexdigest()}
    pair, remarks = row.pair, ()
    if changed:
        provenance, remarks = _with_images(pair.provenance, changed)
        pair = pair.model_copy(update={"provenance": provenance})
    (source, source_extension, _), (target, target_extension, _) = baked
    look, own = PairLook.of(pair, *looks), own_remarks(pair, *looks)
    ready = PreparedRow(look, tuple(own), len(changed), remarks)
    try:
        return ready._replace(sample=encoded_sample(pair, source, source_extension, target, target_extension))
    except (ImageError, RecordError) as error:
        return ready._replace(late=str(error))


def prepared_rows(
    rows: Iterable[Candidate | Rejected], max_pixels: int, workers: int
) -> Iterator[tuple[Candidate | Rejected, PreparedRow | None]]:
    """Each row with what was prepared of it (None: of a rejected one), in their order; `workers` processes, or this one
    alone. No more than a few batches are in memory. Raises ChildProcessError when a process is gone."""
    rows = iter(rows)
    # A process takes longer to start than a few pictures to decode.
    for row in islice(rows, _ROWS_AT_ONCE) if workers > 1 else rows:
        yield row, prepared_row(row, max_pixels) if isinstance(row, Candidate) else None
    with ProcessPool(workers, "prepares pictures") as pool:
        for batch, ready in pool.in_order(partial(_prepare, max_pixels), _batches(rows)):
            yield from zip(batch, ready, strict=True)


def _batches(rows: Iterator[Candidate | Rejected]) -> Iterator[list[Candidate | Rejected]]:
    """Rows by a few; those before an error of the input, too, which is raised behind them."""
    batch: list[Candidate | Rejected] = []
    size, failure = 0, None
    try:
        for row in rows:
            batch.append(row)
            size += len(row.source) + len(row.target) if isinstance(row, Candidate) else 0
            if len(batch) >= _ROWS_AT_ONCE or size >= _BYTES_AT_ONCE:
                yield batch
                batch, size = [], 0
    except Exception as error:
        failure = error
    if batch:
        yield batch
    if failure is not None:
        raise failure


def _prepare(max_pixels: int, batch: list[Candidate | Rejected]) -> list[PreparedRow | None]:
    return [prepared_row(row, max_pixels) if isinstance(row, Candidate) else None for row in batch]


def _with_images(provenance: dict[str, Any], images: dict[str, Any]) -> tuple[dict[str, Any], tuple[Remark, ...]]:
    """The provenance with what was done to the images; what the user keeps under that name gets another."""
    if "images" not in provenance:
        return provenance | {"images": images}, ()
    name = "images_before"
    while name in provenance:
        name += "_before"
    kind = "provenance.images is needed for what an import does to pictures"
    remark = Remark(kind, f"{kind}: what it held is now provenance.{name}")
    return provenance | {name: provenance["images"], "images": images}, (remark,)


def most_workers() -> int:
    """As many processes as this one may use cores, beside itself; 1: no other."""
    return min(16, cores())
