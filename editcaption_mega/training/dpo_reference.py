"""The reference of a preference job: its log-probs from a file, or from a second copy of the model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from editcaption_mega import platform
from editcaption_mega.conversion import WeightSource, load_weights
from editcaption_mega.data.batching.batch import PackedBatch
from editcaption_mega.data.batching.dataset import PairDataset
from editcaption_mega.data.batching.loader import SequenceReader
from editcaption_mega.model import Architecture, build_model
from editcaption_mega.objectives.dpo import HELD_OUT_REFERENCE_FILE, REFERENCE_FILE
from editcaption_mega.progress import Progress
from editcaption_mega.settings import DPOSettings

from .adapter_state import adapters_off
from .identity import check_identity, recorded_identity
from .inputs import reading_ahead
from .log_probs import data_parts, fingerprint_of, response_log_probs, write_log_probs
from .prepare import Prepared
from .reference_table import read_reference


class LogProbsByNumber(Protocol):
    """The token log-probs of every sample's answers, by its number: [chosen tokens + rejected tokens] fp32."""

    def __getitem__(self, sample: int, /) -> Tensor: ...


class StoredReference:
    """Token log-probs of every answer, of which a step reads those of its own samples."""

    def __init__(self, log_probs: LogProbsByNumber):
        self.log_probs = log_probs

    def prepare(self, micro_batches: list[PackedBatch], length: int) -> None:
        """Nothing: all of them are stored."""

    def tokens(self, batch: PackedBatch) -> Tensor:
        parts = [self.log_probs[sample] for sample in batch.sample_numbers]
        return torch.cat([torch.zeros(0), *parts]).to(batch.targets.device, non_blocking=True)


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


class AdaptersOffReference(ResidentReference):
    """The policy itself without its adapters: the weights that they are on, which nothing changes."""

    def __init__(self, chunks: list[torch.nn.Module]):
        self.chunks = chunks
        self.log_probs = {}

    def prepare(self, micro_batches: list[PackedBatch], length: int) -> None:
        training = [chunk.training for chunk in self.chunks]
        for chunk in self.chunks:
            chunk.eval()  # the router's loss and its counts are those of the policy
        with adapters_off(self.chunks):
            super().prepare(micro_batches, length)
        for chunk, mode in zip(self.chunks, training, strict=True):
            chunk.train(mode)


@dataclass(frozen=True)
class JobReference:
    """What a job has of its reference."""

    log_probs: StoredReference | ResidentReference
    weights: str  # the digest of its weights
    equals_start: bool  # whether the policy of this start has these very weights: only a new run's may
    held_out: StoredReference | ResidentReference | None = None  # for the held-out pairs, if there are some

    @property
    def of_held_out(self) -> "JobReference":
        """The same for the held-out pairs, at which the policy is no longer where it started."""
        assert self.held_out is not None
        return JobReference(self.held_out, self.weights, False)


def reference_for(prepared: Prepared, settings: DPOSettings, progress: Progress) -> JobReference | None:
    """The reference that the settings ask for; None for a loss without one. Collective.

    A stored one is read from its file, which the job writes first when it is its own and not there yet. Raises
    ValueError when file or weights are not those of this job, or of the run that it goes on with."""
    mode = settings.reference_mode
    if mode == "none":
        return None
    make = {"stored": _stored_reference, "resident": _resident_reference, "adapters_off": _adapters_off_reference}
    return make[mode](prepared, settings, progress)


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
    load_weights(
        chunks, prepared.architecture, source.folder, source.checkpoint,
        adapter=source.adapter, verify=settings.checkpoint.verify,
    )  # fmt: skip
    resident = ResidentReference(chunks)
    return JobReference(resident, weights, _equals_start(prepared, source), resident)


def _adapters_off_reference(prepared: Prepared, settings: DPOSettings, progress: Progress) -> JobReference:
    source = prepared.new_run_source
    weights = platform.from_rank_zero(source.digest)
    _check_same_reference(prepared, weights)
    reference = AdaptersOffReference(prepared.chunks)
    prepared.notes.append("reference: the model without its adapters, computed in each step; no second copy, no file")
    return JobReference(reference, weights, _equals_start(prepared, source), reference)


def _stored_reference(prepared: Prepared, settings: DPOSettings, progress: Progress) -> JobReference:
    own, tables = prepared.session.output / REFERENCE_FILE, prepared.session.tables
    path = Path(settings.reference.file) if settings.reference.file else own
    if settings.reference.file and not platform.from_rank_zero(path.is_file):
        raise ValueError(
            f"reference.file={path} does not exist: write it with editcaption log-probs, or leave reference.file empty "
            "and the job writes its own"
        )
    files = _ReferenceFiles(prepared, settings, progress)
    log_probs, weights, equals_start = files.read(path, prepared.stream.reader, tables, own=path == own)
    held_out = None
    if prepared.held_out is not None:
        of_held_out = prepared.session.output / HELD_OUT_REFERENCE_FILE
        held_out, _, _ = files.read(of_held_out, prepared.held_out, prepared.session.held_out_tables, own=True)
    return JobReference(log_probs, weights, equals_start, held_out)


@dataclass(frozen=True)
class _ReferenceFiles:
    """Files of log-probs under the reference, each of which the job writes where it is its own and not there yet."""

    prepared: Prepared
    settings: DPOSettings
    progress: Progress

    def read(
        self, path: Path, reader: SequenceReader[PairDataset], tables: Path, *, own: bool
    ) -> tuple[StoredReference, str, bool]:
        """-> the log-probs of the reader's pairs, the digest of the weights, and whether the policy of this start has
        them. Collective."""
        prepared, dataset, precision = self.prepared, reader.dataset, self.settings.training.precision
        exists = platform.from_rank_zero(path.is_file)
        if exists and prepared.resumed.checkpoint:
            # The weights that it started from may be gone by now; the run knows what they were.
            weights, equals_start = recorded_identity(prepared.resumed.state)["reference_weights"], False
            expected = {"weights": weights, "precision": precision}
            if "identity" in prepared.resumed.state:  # an earlier version has other fingerprints, and a line says so
                expected |= data_parts(dataset)
        else:
            source = _source(prepared, self.settings)
            expected, equals_start = fingerprint_of(source, dataset, precision), _equals_start(prepared, source)
            weights = expected["weights"]
            _check_same_reference(prepared, weights)
            if not exists:
                prepared.load(source)
                platform.print_rank_0(f"reference: log-probs of {len(dataset):,} pairs, written to {path}")
                reading = reading_ahead(self.settings.data)
                with adapters_off(prepared.chunks):
                    write_log_probs(
                        prepared.chunks, reader, path, expected, reading, progress=self.progress,
                        bad_samples_share=self.settings.data.bad_samples_share,
                    )  # fmt: skip
        return StoredReference(read_reference(path, reader, expected, tables, sums=own)), weights, equals_start


def _check_same_reference(prepared: Prepared, weights: str) -> None:
    """Raises ValueError when a resumed run had another reference."""
    if prepared.resumed.checkpoint:
        check_identity(prepared.resumed.checkpoint, prepared.resumed.state, {"reference_weights": weights})


def _equals_start(prepared: Prepared, source: WeightSource) -> bool:
    """Whether the policy has these very weights now; adapters that are new change nothing."""
    new = prepared.resumed.checkpoint is None and not prepared.settings.model.adapters.start
    return new and source == prepared.new_run_source
