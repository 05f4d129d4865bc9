"""The first phase of a training job: everything is checked, the ranks are joined, and the model is built."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from editcaption_mega import platform
from editcaption_mega.conversion import (
    AdapterChoice,
    StoreReader,
    WeightSource,
    check_same_model,
    find_checkpoint,
    load_weights,
)
from editcaption_mega.data.batching.dataset import PairDataset, SampleLengths
from editcaption_mega.data.batching.job_samples import JobSamples
from editcaption_mega.data.batching.loader import SequenceReader, StepStream
from editcaption_mega.data.batching.order import Order
from editcaption_mega.data.start_tables import HELD_OUT_TABLES, JobShards
from editcaption_mega.data.text.prompt import trained_side_files
from editcaption_mega.data.text.side_files import SideFiles
from editcaption_mega.model import Architecture, build_model
from editcaption_mega.objectives import Objective
from editcaption_mega.settings import JobSettings, TrainingSettings, before_work

from .adapter_state import BASE_WEIGHTS, adapter_metadata, base_identity, check_start, chosen_adapters
from .checkpoint import local_copies
from .held_out_shards import HeldOutShards
from .identity import identity
from .improvement import check_metric
from .run_folder import Resumed, where_to_start
from .sampled_pairs import check_samples_fit
from .session import Session, stop_if_asked
from .setup import measure_samples, open_architecture, open_dataset, open_reader


@dataclass
class Prepared:
    """A job before its objective: the ranks are joined, the folder is its own, the model is built without weights."""

    session: Session
    architecture: Architecture
    stream: StepStream[PairDataset]
    chunks: list[torch.nn.Module]  # model chunks of this rank
    resumed: Resumed
    identity: dict[str, Any]  # what a resumed run must find as it was; the objective adds to it
    side_files: SideFiles  # config, tokenizer and so on, held because the folder may be moved while the job runs
    metadata: dict[str, Any]  # of its checkpoints
    held_out: SequenceReader[PairDataset] | None = None  # of pairs that are never trained on
    notes: list[str] = field(default_factory=list)  # of this start, for the log
    adapters: AdapterChoice | None = None  # which alone are trained then
    loaded: WeightSource | None = None  # whose weights are in the chunks

    @property
    def settings(self) -> JobSettings:
        return self.session.settings

    @property
    def dataset(self) -> PairDataset:
        return self.stream.reader.dataset

    @property
    def total_steps(self) -> int:
        return total_steps(self.settings.training, len(self.dataset))

    @property
    def new_run_source(self) -> WeightSource:
        """The weights that a new run starts from, which a resumed one may no longer have. Raises ValueError for a
        checkpoint that is none; `load_weights` checks that it is of this model."""
        return new_run_source(self.settings)

    @property
    def start_source(self) -> WeightSource:
        """The weights before the first step: of the run's own checkpoint, if it goes on from one that holds them."""
        return _start_source(self.settings, self.resumed)

    def load(self, source: WeightSource) -> None:
        """Fill the chunks with the weights of `source`, unless they are in there. Collective."""
        if source != self.loaded:
            if self.session.base is not None:
                self.session.base.forget()
            # Every byte of the checkpoint to resume from has been verified when it was chosen.
            verified = source.checkpoint == self.resumed.checkpoint
            load_weights(
                self.chunks, self.architecture, source.folder, source.checkpoint, adapter=source.adapter,
                verify=self.settings.checkpoint.verify and not verified,
                local=local_copies(self.settings) if verified else None,
            )  # fmt: skip
            self.loaded = source


def _held_out_reader(
    of_held_out: tuple[PairDataset, SampleLengths], training: SequenceReader[PairDataset]
) -> SequenceReader[PairDataset]:
    dataset, lengths = of_held_out
    return SequenceReader(dataset, lengths, training.packer, place=dataset.place if training.place else None)


def total_steps(training: TrainingSettings, num_samples: int) -> int:
    """Of a run on so many samples."""
    return training.steps or max(1, round(training.epochs * num_samples / training.global_batch_size))


def new_run_source(settings: JobSettings) -> WeightSource:
    """See `Prepared.new_run_source`."""
    checkpoint = find_checkpoint(settings.model.checkpoint) if settings.model.checkpoint else None
    return WeightSource(Path(settings.model.folder), checkpoint)


def _start_source(settings: JobSettings, resumed: Resumed) -> WeightSource:
    if resumed.checkpoint and not settings.model.adapters.rank:
        return WeightSource(Path(settings.model.folder), resumed.checkpoint)
    return new_run_source(settings)


def open_model(settings: JobSettings, objective: type[Objective]) -> tuple[Architecture, AdapterChoice | None]:
    """The sizes of the model, and the adapters for it. Raises SettingsError for what cannot fit these, or the kind of
    objective: all that can be said before data and folder are looked at."""
    architecture = open_architecture(settings)
    with before_work():
        check_metric(settings.evaluation.metric, objective.better)
        return architecture, chosen_adapters(settings, architecture)


@dataclass(frozen=True)
class Opened:
    """What a job reads, open; nothing has been written yet."""

    shards: JobShards
    order: Order
    dataset: PairDataset
    held_out: HeldOutShards | None
    parts: dict[str, Any]  # of its identity
    base: dict[str, str]  # of these, the weights that adapters are on; {}: there are no adapters


def open_data(settings: JobSettings, objective: type[Objective], architecture: Architecture, tables: Path) -> Opened:
    """The pairs of a job with this kind of objective, and what a run of it must find as it was. tables: the folder of
    what earlier starts found out. Collective; raises SettingsError, alike on every rank."""
    samples = JobSamples.of(settings.data, settings.training.seed)
    with before_work():
        shards = JobShards(samples, tables)
        order = samples.order(shards.reader.columns)
        settings.optimizer.check_steps(total_steps(settings.training, len(shards.reader)))
        held_out = HeldOutShards.of(settings, shards.reader, tables / HELD_OUT_TABLES)
    with platform.together():
        dataset = open_dataset(settings, objective.answers, shards.reader)
    base = base_identity(new_run_source(settings)) if settings.model.adapters.rank else {}
    parts = identity(settings, dataset, architecture, objective.name) | base
    return Opened(shards, order, dataset, held_out, parts, base)


def prepare(job: Session, objective: type[Objective]) -> Prepared:
    """Check settings, data and folder for a job with this kind of objective, and build its model. Collective.

    Raises ValueError for what cannot fit, and Stopped after a signal."""
    settings = job.settings
    architecture, adapters = open_model(settings, objective)
    job.begin()
    opened = open_data(settings, objective, architecture, job.tables)
    shards, order, held_out, dataset = opened.shards, opened.order, opened.held_out, opened.dataset
    parts, base = opened.parts, opened.base
    resumed = where_to_start(settings, parts, objective.files, local_copies(settings))
    source = _start_source(settings, resumed)
    with before_work(), platform.together():
        if adapters and resumed.checkpoint is None:
            check_start(adapters, base)
        if source.checkpoint is not None and source.checkpoint != resumed.checkpoint:
            check_same_model(StoreReader(source.checkpoint), architecture)
    job.own_folder()
    shards.keep()
    side_files = trained_side_files(SideFiles.read(settings.model.folder), dataset.encoder.tokenizer)
    metadata = {
        "fingerprint": dataset.fingerprint,
        "experts_in_out": platform.from_rank_zero(source.experts_in_out),
        **(adapter_metadata(settings.model, base) if adapters else {}),
    }
    length, skip_bad = settings.data.sequence_length, settings.data.skips_bad_samples
    lengths = measure_samples(dataset, length, job.tables, skip_bad=skip_bad)
    of_held_out = None if held_out is None else held_out.measured(dataset, length, skip_bad=skip_bad)
    if of_held_out is not None and settings.evaluation.every:
        with before_work(), platform.together():
            check_samples_fit(of_held_out[0], settings.samples, length)
    stop_if_asked(resumed.step, "while the samples were checked")
    shares = job.base is not None and job.base.holds(source, base.get(BASE_WEIGHTS, ""))
    chunks = build_model(
        architecture, settings.model, settings.parallel, settings.training.precision,
        adapters.plan(settings.training.seed) if adapters else None,
        job.base.weights if job.base is not None and shares else None,
    )  # fmt: skip
    reader = open_reader(settings, dataset, lengths, architecture)
    stream = StepStream(reader, order, settings.training.global_batch_size)
    notes = ["weights: those that an earlier run of this job has loaded"] if shares else []
    notes += [] if held_out is None else held_out.notes
    return Prepared(
        job, architecture, stream, chunks, resumed, parts, side_files, metadata,
        held_out=None if of_held_out is None else _held_out_reader(of_held_out, reader),
        notes=notes, adapters=adapters, loaded=source if shares else None,
    )  # fmt: skip
