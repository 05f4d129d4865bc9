"""The reference of a preference job: its log-probs from a file, or from a second copy of the model."""

import json
from pathlib import Path

import torch
from torch import Tensor

from editcaption_mega import platform
from editcaption_mega.conversion import WeightSource, load_weights
from editcaption_mega.data.batching.batch import PackedBatch
from editcaption_mega.data.batching.loader import SequenceReader
from editcaption_mega.model import Architecture, build_model
from editcaption_mega.settings import DPOSettings

from .identity import check_identity, recorded_identity
from .job import Start
from .log_probs import ANSWERS, data_parts, fingerprint_of, row_log_probs, write_log_probs


class StoredReference:
    """Token log-probs of every answer, read from a file. tensors: id -> [chosen tokens + rejected tokens] fp32."""

    def __init__(self, tensors: dict[str, Tensor]):
        self.tensors = tensors

    def prepare(self, rows: list[PackedBatch], row_length: int) -> None:
        """Nothing: all of them are known."""

    def tokens(self, batch: PackedBatch) -> Tensor:
        parts = [self.tensors[name] for name in batch.sample_ids]
        return torch.cat(parts).to(batch.targets.device, non_blocking=True)


class ResidentReference:
    """A second, frozen copy of the model in the policy's layout, run forward on the rows of each step."""

    def __init__(self, chunks: list):
        self.chunks, self.rows = chunks, {}
        for chunk in chunks:
            chunk.eval().requires_grad_(False)

    def prepare(self, rows: list[PackedBatch], row_length: int) -> None:
        log_probs = row_log_probs(self.chunks, rows, row_length)
        # On the last stage one tensor per row; elsewhere none, and nobody asks.
        self.rows = {row.sample_ids: values for row, values in zip(rows, log_probs, strict=False)}

    def tokens(self, batch: PackedBatch) -> Tensor:
        return self.rows[batch.sample_ids]


# A reference, the digest of its weights, and whether these are the weights that a new run starts from.
Made = tuple[StoredReference | ResidentReference, str, bool]


def reference_weights(settings: DPOSettings, start: Start) -> WeightSource:
    """The weights of the reference. Raises ValueError when they are of another model than the policy."""
    if not settings.reference.checkpoint:
        return start.source()
    source = WeightSource.of(settings.reference.checkpoint, verify=settings.checkpoint.verify)
    if Architecture.from_folder(source.folder) != start.architecture:
        raise ValueError(
            f"reference.checkpoint={settings.reference.checkpoint} is of another model than "
            f"model.folder={settings.model.folder}: their config.json differ; use weights of the same architecture"
        )
    return source


def resident_reference(settings: DPOSettings, start: Start, progress) -> Made:
    source = reference_weights(settings, start)
    weights = platform.from_rank_zero(source.digest)
    _check_reference(start, weights)
    chunks = build_model(start.architecture, settings.model, settings.parallel, settings.training.precision)
    load_weights(chunks, start.architecture, source.folder, source.checkpoint, verify=settings.checkpoint.verify)
    return ResidentReference(chunks), weights, _same(source, start)


def stored_reference(settings: DPOSettings, start: Start, progress) -> Made:
    """Reads the file, which the job writes first when it is its own and not there yet."""
    reader, precision = start.stream.reader, settings.training.precision
    dataset = reader.dataset
    own = Path(settings.training.output) / "reference.jsonl"
    path = Path(settings.reference.file) if settings.reference.file else own
    exists = platform.from_rank_zero(path.is_file)
    if not exists and settings.reference.file:
        raise ValueError(
            f"reference.file={path} does not exist: write it with tools/log_probs.py, or leave reference.file empty "
            "and the job writes its own"
        )
    if exists and start.resumed.checkpoint:
        # The weights that it started from may be gone by now; the run knows what they were.
        weights, is_start = recorded_identity(start.resumed.state)["reference_weights"], False
        expected = {"weights": weights, "precision": precision}
        if "identity" in start.resumed.state:  # a run of an earlier version has other fingerprints, and a line says so
            expected |= data_parts(dataset)
    else:
        source = reference_weights(settings, start)
        expected, is_start = fingerprint_of(source, dataset, precision), _same(source, start)
        weights = expected["weights"]
        _check_reference(start, weights)
    if not exists:
        start.load(source)
        platform.print_once(f"reference: log-probs of {len(dataset):,} pairs, written to {path}")
        write_log_probs(start.chunks, reader, path, expected, progress=progress)
    return StoredReference(read_reference(path, reader, expected, sums=path == own)), weights, is_start


def _check_reference(start: Start, weights: str) -> None:
    """Raises ValueError when a resumed run had another reference."""
    if start.resumed.checkpoint:
        check_identity(start.resumed.checkpoint, start.resumed.state, {"reference_weights": weights})


def _same(source: WeightSource, start: Start) -> bool:
    return start.resumed.checkpoint is None and source == start.source()


def read_reference(
    path: Path, reader: SequenceReader, expected: dict[str, str], *, sums: bool = False
) -> dict[str, Tensor]:
    """Token log-probs by sample id. Raises ValueError, naming what differs, for a file of another job or a part.

    sums: hold each answer's sum, which the file has too, against its tokens, so that no digit changes unnoticed."""
    with open(path, encoding="utf-8") as file:
        found = _parsed(path, 1, file.readline()).get("fingerprint")
        if not isinstance(found, dict):
            raise ValueError(f"{path} is no file of tools/log_probs.py: its first line holds no fingerprint")
        different = [name for name, value in expected.items() if found.get(name) != value]
        if different:
            told = ", ".join(f"{name} ({found.get(name)} there, {expected[name]} here)" for name in different)
            raise ValueError(
                f"{path} holds reference log-probs of something else: {told} differ. Write them again with "
                "tools/log_probs.py, or leave reference.file empty and use a new training.output"
            )
        tensors = {}
        for number, line in enumerate(file, start=2):
            row = _parsed(path, number, line)
            try:
                values = [float(value) for answer in ANSWERS for value in row[answer]["token_log_probs"]]
                lengths = tuple(len(row[answer]["token_log_probs"]) for answer in ANSWERS)
                tensors[row["id"]] = torch.tensor(values, dtype=torch.float32), lengths
                whole = not sums or all(
                    sum(row[answer]["token_log_probs"]) == row[answer]["log_prob"] for answer in ANSWERS
                )
            except (KeyError, TypeError, ValueError):
                raise ValueError(
                    f"{path}, line {number}: expected id, chosen and rejected with their token_log_probs; write the "
                    "file again with tools/log_probs.py"
                ) from None
            if not whole:
                raise ValueError(
                    f"{path}, line {number} is damaged: the log-probs of {row['id']} do not add up to their sum; "
                    "remove the file, and the job computes it again"
                )
    checked = {}
    for i, in_shards in enumerate(map(tuple, reader.lengths.answers.tolist())):
        name = reader.dataset.id(i)
        if name not in tensors:
            raise ValueError(
                f"{path} is incomplete: it has no log-probs of sample {name} ({len(tensors):,} samples there, "
                f"{len(reader.dataset):,} in data.shards); write it again with tools/log_probs.py"
            )
        values, lengths = tensors[name]
        if lengths != in_shards:
            raise ValueError(
                f"{path}: sample {name} has answers of {lengths} tokens there, and of {in_shards} in data.shards; "
                "write it again"
            )
        if not torch.isfinite(values).all():
            raise ValueError(
                f"{path}: the reference log-probs of sample {name} are not finite: the reference model gives one "
                "of its tokens no probability; remove the pair or use another reference"
            )
        checked[name] = values
    return checked


def _parsed(path: Path, number: int, line: str) -> dict:
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        row = None
    if not isinstance(row, dict):
        raise ValueError(f"{path}, line {number} is not a JSON object: the file is damaged, write it again")
    return row
