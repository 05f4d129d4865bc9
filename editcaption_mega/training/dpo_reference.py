"""The reference of a preference job: its log-probs from a file, or from a second copy of the model."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from editcaption_mega import platform
from editcaption_mega.conversion import WeightSource, load_weights
from editcaption_mega.data.batching.batch import PackedBatch
from editcaption_mega.data.batching.dataset import PairDataset
from editcaption_mega.data.batching.loader import SequenceReader
from editcaption_mega.model import Architecture, build_model
from editcaption_mega.objectives.dpo import REFERENCE_FILE
from editcaption_mega.progress import Progress
from editcaption_mega.settings import DPOSettings

from .identity import check_identity, recorded_identity
from .inputs import reading_ahead
from .log_probs import ANSWERS, data_parts, fingerprint_of, response_log_probs, write_log_probs
from .prepare import Prepared


class StoredReference:
    """Token log-probs of every answer, read from a file. tensors: id -> [chosen tokens + rejected tokens] fp32."""

    def __init__(self, tensors: dict[str, Tensor]):
        self.tensors = tensors

    def prepare(self, micro_batches: list[PackedBatch], length: int) -> None:
        """Nothing: all of them are known."""

    def tokens(self, batch: PackedBatch) -> Tensor:
        parts = [self.tensors[name] for name in batch.sample_ids]
        return torch.cat(parts).to(batch.targets.device, non_blocking=True)


class ResidentReference:
    """A second, frozen copy of the model in the policy's layout, run forward on the micro-batches of each step."""

    def __init__(self, chunks: list[torch.nn.Module]):
        self.chunks: list[torch.nn.Module] = chunks
        self.log_probs: dict[tuple[str, ...], Tensor] = {}  # of a micro-batch, by the ids of its samples
        for chunk in chunks:
            chunk.eval().requires_grad_(False)

    def prepare(self, micro_batches: list[PackedBatch], length: int) -> None:
        log_probs = response_log_probs(self.chunks, micro_batches, length)
        # On the last stage one tensor per micro-batch; elsewhere none, and nobody asks.
        self.log_probs = {b.sample_ids: values for b, values in zip(micro_batches, log_probs, strict=False)}

    def tokens(self, batch: PackedBatch) -> Tensor:
        return self.log_probs[batch.sample_ids]


@dataclass(frozen=True)
class JobReference:
    """What a job has of its reference."""

    log_probs: StoredReference | ResidentReference
    weights: str  # the digest of its weights
    equals_start: bool  # whether the policy of this start has these very weights: only a new run's may


def reference_for(prepared: Prepared, settings: DPOSettings, progress: Progress) -> JobReference | None:
    """The reference that the settings ask for; None for a loss without one. Collective.

    A stored one is read from its file, which the job writes first when it is its own and not there yet. Raises
    ValueError when file or weights are not those of this job, or of the run that it goes on with."""
    if settings.reference.mode == "none":
        return None
    make = _stored_reference if settings.reference.mode == "stored" else _resident_reference
    return make(prepared, settings, progress)


def _source(prepared: Prepared, settings: DPOSettings) -> WeightSource:
    """The weights of the reference. Raises ValueError when they are of another model than the policy."""
    if not settings.reference.checkpoint:
        return prepared.new_run_source
    source = WeightSource.of(settings.reference.checkpoint, verify=settings.checkpoint.verify)
    if Architecture.from_folder(source.folder) != prepared.architecture:
        raise ValueError(
            f"reference.checkpoint={settings.reference.checkpoint} is of another model than "
            f"model.folder={settings.model.folder}: their config.json differ; use weights of the same architecture"
        )
    return source


def _resident_reference(prepared: Prepared, settings: DPOSettings, progress: Progress) -> JobReference:
    source = _source(prepared, settings)
    weights = platform.from_rank_zero(source.digest)
    _check_same_reference(prepared, weights)
    chunks = build_model(prepared.architecture, settings.model, settings.parallel, settings.training.precision)
    load_weights(chunks, prepared.architecture, source.folder, source.checkpoint, verify=settings.checkpoint.verify)
    return JobReference(ResidentReference(chunks), weights, _equals_start(prepared, source))


def _stored_reference(prepared: Prepared, settings: DPOSettings, progress: Progress) -> JobReference:
    reader, dataset = prepared.stream.reader, prepared.dataset
    precision, resumed = settings.training.precision, prepared.resumed
    own = prepared.session.output / REFERENCE_FILE
    path = Path(settings.reference.file) if settings.reference.file else own
    exists = platform.from_rank_zero(path.is_file)
    if not exists and settings.reference.file:
        raise ValueError(
            f"reference.file={path} does not exist: write it with tools/log_probs.py, or leave reference.file empty "
            "and the job writes its own"
        )
    if exists and resumed.checkpoint:
        # The weights that it started from may be gone by now; the run knows what they were.
        weights, equals_start = recorded_identity(resumed.state)["reference_weights"], False
        expected = {"weights": weights, "precision": precision}
        if "identity" in resumed.state:  # a run of an earlier version has other fingerprints, and a line says so
            expected |= data_parts(dataset)
    else:
        source = _source(prepared, settings)
        expected, equals_start = fingerprint_of(source, dataset, precision), _equals_start(prepared, source)
        weights = expected["weights"]
        _check_same_reference(prepared, weights)
        if not exists:
            prepared.load(source)
            platform.print_rank_0(f"reference: log-probs of {len(dataset):,} pairs, written to {path}")
            write_log_probs(prepared.chunks, reader, path, expected, reading_ahead(settings.data), progress=progress)
    return JobReference(
        StoredReference(read_reference(path, reader, expected, sums=path == own)), weights, equals_start
    )


def _check_same_reference(prepared: Prepared, weights: str) -> None:
    """Raises ValueError when a resumed run had another reference."""
    if prepared.resumed.checkpoint:
        check_identity(prepared.resumed.checkpoint, prepared.resumed.state, {"reference_weights": weights})


def _equals_start(prepared: Prepared, source: WeightSource) -> bool:
    return prepared.resumed.checkpoint is None and source == prepared.new_run_source


def read_reference(
    path: Path, reader: SequenceReader[PairDataset], expected: dict[str, str], *, sums: bool = False
) -> dict[str, Tensor]:
    """Token log-probs [chosen tokens + rejected tokens] fp32 by sample id. Collective: all ranks raise alike.

    Raises ValueError, naming what differs, for a file of another job or a part. sums: hold each answer's sum, which the
    file has too, against its tokens, so that no digit changes unnoticed."""
    with platform.together():
        samples = _read_file(path, expected, sums=sums)
        return {name: _checked(path, name, lengths, samples, len(reader.dataset)) for name, lengths in _needed(reader)}


def _needed(reader: SequenceReader[PairDataset]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Each sample's id, and the tokens of its answers."""
    for i, lengths in enumerate(reader.lengths.answers.tolist()):
        yield reader.dataset.id(i), tuple(lengths)


class _AnswerLogProbs(NamedTuple):
    log_probs: Tensor  # [chosen tokens + rejected tokens] fp32
    lengths: tuple[int, ...]  # tokens of each answer


def _read_file(path: Path, expected: dict[str, str], *, sums: bool) -> dict[str, _AnswerLogProbs]:
    """All samples of the file, by id. Raises ValueError for another fingerprint, or lines that are not what they
    should be."""
    samples = {}
    with open(path, encoding="utf-8") as file:
        _check_fingerprint(path, _parsed(path, 1, file.readline()).get("fingerprint"), expected)
        for number, line in enumerate(file, start=2):
            values = _parsed(path, number, line)
            try:
                answers = [values[answer]["token_log_probs"] for answer in ANSWERS]
                log_probs = [float(value) for answer in answers for value in answer]
                lengths = tuple(map(len, answers))
                samples[values["id"]] = _AnswerLogProbs(torch.tensor(log_probs, dtype=torch.float32), lengths)
                adds_up = not sums or [sum(answer) for answer in answers] == [values[a]["log_prob"] for a in ANSWERS]
            except (KeyError, TypeError, ValueError):
                raise ValueError(
                    f"{path}, line {number}: expected id, chosen and rejected with their token_log_probs; write the "
                    "file again with tools/log_probs.py"
                ) from None
            if not adds_up:
                raise ValueError(
                    f"{path}, line {number} is damaged: the log-probs of {values['id']} do not add up to their sum; "
                    "remove the file, and the job computes it again"
                )
    return samples


def _check_fingerprint(path: Path, recorded: object, expected: dict[str, str]) -> None:
    if not isinstance(recorded, dict):
        raise ValueError(f"{path} is no file of tools/log_probs.py: its first line holds no fingerprint")
    different = [name for name, value in expected.items() if recorded.get(name) != value]
    if different:
        listed = ", ".join(f"{name} ({recorded.get(name)} there, {expected[name]} here)" for name in different)
        raise ValueError(
            f"{path} holds reference log-probs of something else: {listed} differ. Write them again with "
            "tools/log_probs.py, or leave reference.file empty and use a new training.output"
        )


def _checked(
    path: Path, name: str, lengths: tuple[int, ...], samples: dict[str, _AnswerLogProbs], wanted: int
) -> Tensor:
    """What the file has of one sample. Raises ValueError when it is not what the data needs."""
    if name not in samples:
        raise ValueError(
            f"{path} is incomplete: it has no log-probs of sample {name} ({len(samples):,} samples there, "
            f"{wanted:,} in data.shards); write it again with tools/log_probs.py"
        )
    sample = samples[name]
    if sample.lengths != lengths:
        raise ValueError(
            f"{path}: sample {name} has answers of {sample.lengths} tokens there, and of {lengths} in data.shards; "
            "write it again"
        )
    if not torch.isfinite(sample.log_probs).all():
        raise ValueError(
            f"{path}: the reference log-probs of sample {name} are not finite: the reference model gives one "
            "of its tokens no probability; remove the pair or use another reference"
        )
    return sample.log_probs


def _parsed(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except json.JSONDecodeError:
        values = None
    if not isinstance(values, dict):
        raise ValueError(f"{path}, line {number} is not a JSON object: the file is damaged, write it again")
    return values
