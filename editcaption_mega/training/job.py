"""A whole training job: check, build, resume or start, train, save. The objective comes from outside."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from editcaption_mega import platform, signals
from editcaption_mega.conversion import WeightSource, find_checkpoint, load_weights, local_shards, rules_for
from editcaption_mega.data import SampleOrder
from editcaption_mega.data.batching.dataset import Answers, PairDataset
from editcaption_mega.data.batching.loader import StepStream
from editcaption_mega.data.text.prompt import trained_side_files
from editcaption_mega.data.text.side_files import SideFiles
from editcaption_mega.lock import FolderLock
from editcaption_mega.model import Architecture, build_model
from editcaption_mega.objectives import Objective, SFTObjective
from editcaption_mega.settings import JobSettings

from .checkpoint import load_optimizer, load_random_state, save_checkpoint
from .experts import ExpertLoad
from .identity import flat, identity
from .loop import Stopped, stop_if_asked, train
from .metrics import RunLog
from .optimizer import build_trainer, freeze, trainable_table
from .run_folder import Resumed, first_lines, keep_settings, record_failure, where_to_start
from .setup import layout_of, measure_samples, open_architecture, open_dataset, open_reader


def total_steps(settings: JobSettings, num_samples: int) -> int:
    if settings.training.steps:
        return settings.training.steps
    return max(1, round(settings.training.epochs * num_samples / settings.training.global_batch_size))


@dataclass(frozen=True)
class Start:
    """What a job has when it is about to make its objective: the groups exist, the model is built."""

    architecture: Architecture
    stream: StepStream
    chunks: list  # model chunks of this rank, with weights or not yet
    load: Callable[[WeightSource], None]  # fills the chunks; the same source twice is read once
    source: Callable[[], WeightSource]  # where a new run's weights come from; a resumed run may no longer have it
    resumed: Resumed


@dataclass(frozen=True)
class Ending:
    """How a job ended: after which step, and by which signal (0: by itself)."""

    step: int
    signal: int = 0


# What makes an objective, and what of it a resumed run must find unchanged (kept in state.json).
ObjectiveMaker = Callable[[Start], tuple[Objective, dict[str, Any]]]


def run_sft(settings: JobSettings) -> Ending:
    """Train as the settings say; resumes by itself. Raises ValueError before any work when something cannot fit."""
    return run_job(settings, "instruction", lambda start: (SFTObjective(), {}), "sft")


def run_job(settings: JobSettings, answers: Answers, make_objective: ObjectiveMaker, objective: str) -> Ending:
    """Train with any objective, whose name is part of the run's identity. Collective: every rank calls it.

    A signal (`signals.STOPPING`) ends it after the present step with a checkpoint, and at once before the first."""
    with signals.listening():
        architecture = open_architecture(settings)
        dataset = open_dataset(settings, answers)
        parts = identity(settings, dataset, architecture, objective)
        platform.initialize(layout_of(settings.parallel), settings.training.seed)
        lock = FolderLock(settings.training.output, "training", on_lost=signals.ask)
        held = failed = False
        try:
            held = platform.from_rank_zero(lambda: lock.acquire(give_up=signals.asked))
            stop_if_asked(0, "while it waited for its folder")
            resumed = where_to_start(settings, parts)
            return _run(settings, architecture, dataset, make_objective, parts, resumed, lock)
        except Stopped as stopped:
            platform.print_once(str(stopped))
            return Ending(stopped.step, stopped.signal)
        except Exception as error:
            failed = True
            if held:
                record_failure(Path(settings.training.output), error)
            raise
        finally:
            lock.release()
            platform.destroy(after_failure=failed)


def _run(
    settings: JobSettings,
    architecture: Architecture,
    dataset: PairDataset,
    make_objective: ObjectiveMaker,
    parts: dict[str, Any],
    resumed: Resumed,
    lock: FolderLock,
) -> Ending:
    """The job once the process groups exist and the run folder is its own."""
    output = Path(settings.training.output)
    source = partial(_start_weights, settings)
    begin = WeightSource(Path(settings.model.folder), resumed.checkpoint) if resumed.checkpoint else source()
    # Held from here on: checkpoints need them, and the folder may be moved while the job runs.
    side_files = trained_side_files(SideFiles.read(settings.model.folder), dataset.encoder.tokenizer)
    metadata = {
        "fingerprint": dataset.fingerprint,
        "experts_in_out": platform.from_rank_zero(begin.experts_in_out),
    }
    lengths = measure_samples(dataset, settings.data.sequence_length)
    stop_if_asked(resumed.step, "while the samples were checked")
    rules = rules_for(architecture)
    steps = total_steps(settings, len(dataset))
    chunks = build_model(architecture, settings.model, settings.parallel, settings.training.precision)
    stream = StepStream(
        open_reader(settings, dataset, lengths, architecture),
        SampleOrder(len(dataset), settings.training.seed, shuffle=settings.data.shuffle),
        settings.training.global_batch_size,
    )
    in_chunks: list[WeightSource] = []

    def load(wanted: WeightSource) -> None:
        if in_chunks != [wanted]:
            # Every byte of the checkpoint to resume from has been verified when it was chosen.
            verify = settings.checkpoint.verify and wanted.checkpoint != resumed.checkpoint
            load_weights(chunks, architecture, wanted.folder, wanted.checkpoint, verify=verify)
            in_chunks[:] = [wanted]

    objective, more = make_objective(Start(architecture, stream, chunks, load, source, resumed))
    parts = parts | more
    load(begin)
    shards = local_shards(chunks, rules)
    freeze(shards, settings.optimizer)
    trainer = build_trainer(
        chunks, shards, settings.optimizer, precision=settings.training.precision, total_steps=steps
    )
    if resumed.checkpoint:
        load_optimizer(resumed.checkpoint, resumed.state, shards, trainer.optimizer)
        trainer.scheduler.step(increment=resumed.step)
        load_random_state(resumed.checkpoint)
    stop_if_asked(resumed.step, "while the model was loaded")
    log = None
    with platform.together():
        if platform.is_rank_zero():
            log = RunLog(output, first_step=resumed.step, total_steps=steps, log_every=settings.training.log_every)
            table = trainable_table(rules, settings.optimizer)
            for line in [*dataset.notes, *table, *first_lines(settings, len(dataset), steps, resumed)]:
                log.say(line)
            keep_settings(output, settings, resumed.step)
    expert_load = None
    if architecture.experts is not None:
        expert_load = ExpertLoad(trainer.chunks, architecture.num_layers, architecture.experts.num_experts)

    constant = {"identity": parts, "settings": flat(settings)}

    def save(step: int, required: bool) -> bool:
        """-> whether it was written. One that could not be ends the job only where it is `required`."""
        platform.from_rank_zero(lock.check)
        now = {"step": step, "updates": step, "samples": step * settings.training.global_batch_size, **constant}
        try:
            save_checkpoint(
                output, now, shards, trainer.optimizer,
                side_files=side_files, metadata=metadata, keep=settings.checkpoint.keep,
            )  # fmt: skip
        except OSError as error:  # raised alike on every rank
            if required:
                error.add_note("make room, and the same command goes on from the newest checkpoint")
                raise
            if log:
                log.say(
                    f"WARNING: NO CHECKPOINT: {error}. Make room: training goes on, and tries again after "
                    f"{settings.checkpoint.every} steps"
                )
            return False
        return True

    for chunk in trainer.chunks:
        chunk.train()
    ending = Ending(resumed.step)
    if resumed.step >= steps:
        platform.print_once(f"{output} has already been trained for {resumed.step} steps: nothing to do")
    else:
        ending = Ending(
            *train(
                trainer,
                objective,
                stream.steps(resumed.step, steps, ahead=settings.data.prefetch_steps, workers=settings.data.workers),
                on_step=log.step if log else lambda numbers: None,
                on_stop=lock.stopping if log else lambda: None,
                save=save,
                save_every=settings.checkpoint.every,
                saved=resumed.step,
                last_step=steps,
                stop_after=settings.training.stop_after,
                expert_load=expert_load,
            )
        )
    with platform.together():
        if log:
            log.close()
    return ending


def _start_weights(settings: JobSettings) -> WeightSource:
    """What a new run starts from; `load_weights` checks that a checkpoint is of this model."""
    checkpoint = find_checkpoint(settings.model.checkpoint) if settings.model.checkpoint else None
    return WeightSource(Path(settings.model.folder), checkpoint)
