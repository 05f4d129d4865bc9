"""A whole training job: check, build, resume or start, train, save. The objective comes from outside."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from megatron.core import parallel_state

from editcaption_mega import platform
from editcaption_mega.conversion import WeightSource, find_checkpoint, load_weights, local_shards, rules_for
from editcaption_mega.conversion.hugging_face import expert_layout
from editcaption_mega.conversion.run_folder import checkpoints
from editcaption_mega.data import SampleOrder
from editcaption_mega.data.stream import Answers, PairDataset, RowSettings, StepStream, open_pairs, prefetched_steps
from editcaption_mega.model import Architecture, build_model
from editcaption_mega.model.build import check_layout
from editcaption_mega.model.layers import check_backend
from editcaption_mega.objectives import Objective, SFTObjective
from editcaption_mega.settings import JobSettings, ParallelSettings, save_settings

from .checkpoint import load_optimizer, load_random_state, save_checkpoint
from .experts import ExpertLoad
from .loop import train
from .metrics import RunLog
from .optimizer import build_trainer, freeze, trainable_table
from .resume import resume_point, strangers, tidy


def open_dataset(settings: JobSettings, architecture: Architecture, answers: Answers = "instruction") -> PairDataset:
    """The job's pairs as token sequences. Raises ValueError for folders, tokenizer or prompt that cannot be used."""
    dataset = open_pairs(
        settings.data.shards,
        settings.model.folder,
        min_pixels=settings.data.min_pixels,
        max_pixels=settings.data.max_pixels,
        prompt=settings.data.prompt,
        answers=answers,
        shared_prompt=settings.data.shared_prompt,
    )
    encoder, images = dataset.encoder, dataset.images
    if encoder.image_token_id != architecture.image_token_id:
        raise ValueError(
            f"{settings.model.folder}: the tokenizer's image token is {encoder.image_token_id}, config.json says "
            f"{architecture.image_token_id}: tokenizer and model do not belong together"
        )
    if (images.patch_size, images.merge_size) != (
        architecture.vision.patch_size,
        architecture.vision.spatial_merge_size,
    ):
        raise ValueError(
            f"{settings.model.folder}: preprocessor_config.json has patches of {images.patch_size} merged by "
            f"{images.merge_size}, config.json {architecture.vision.patch_size} and "
            f"{architecture.vision.spatial_merge_size}"
        )
    return dataset


def row_settings(settings: JobSettings) -> RowSettings:
    """What this rank needs of each step's rows. After `platform.initialize`."""
    parallel = settings.parallel
    interleaved = parallel.virtual_pipeline_model_parallel_size is not None
    return RowSettings(
        global_batch_size=settings.training.global_batch_size,
        sequence_length=settings.data.sequence_length,
        packing=settings.data.packing,
        data_parallel_size=parallel_state.get_data_parallel_world_size(),
        data_parallel_rank=parallel_state.get_data_parallel_rank(),
        row_multiple=parallel.pipeline_model_parallel_size if interleaved else 1,
        length_multiple=parallel.tensor_model_parallel_size,
        with_images=parallel_state.is_pipeline_first_stage(),
        num_vision_ranks=parallel.tensor_model_parallel_size if parallel.use_sequence_parallel else 1,
        vision_rank=parallel_state.get_tensor_model_parallel_rank() if parallel.use_sequence_parallel else 0,
    )


def layout_of(parallel: ParallelSettings) -> platform.Layout:
    return platform.Layout(
        tensor=parallel.tensor_model_parallel_size,
        pipeline=parallel.pipeline_model_parallel_size,
        virtual_pipeline=parallel.virtual_pipeline_model_parallel_size,
        expert=parallel.expert_model_parallel_size,
        expert_tensor=parallel.expert_tensor_parallel_size,
    )


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
    resume_from: Path | None  # the checkpoint to go on from
    state: dict  # its state.json; {} for a new run


# What makes an objective, and what of it a resumed run must find unchanged (kept in state.json).
ObjectiveMaker = Callable[[Start], tuple[Objective, dict[str, Any]]]


def run_sft(settings: JobSettings) -> None:
    """Train as the settings say; resumes by itself. Raises ValueError before any work when something cannot fit."""
    run_job(settings, "instruction", lambda start: (SFTObjective(), {}), {"objective": "sft"})


def run_job(settings: JobSettings, answers: Answers, make_objective: ObjectiveMaker, identity: dict[str, Any]) -> None:
    """Train with any objective. `identity` goes into each checkpoint, and a run resumes only where it is the same."""
    architecture = Architecture.from_folder(settings.model.folder)
    check_backend(settings.model.backend)
    check_layout(architecture, settings.parallel)
    settings.parallel.data_parallel_size(platform.world_size())
    dataset = open_dataset(settings, architecture, answers)
    identity = {
        **identity,
        "data_fingerprint": dataset.fingerprint,
        "global_batch_size": settings.training.global_batch_size,
        "seed": settings.training.seed,
    }
    platform.initialize(layout_of(settings.parallel), settings.training.seed)
    try:
        _run(settings, architecture, dataset, make_objective, identity)
    finally:
        platform.destroy()


def _run(
    settings: JobSettings,
    architecture: Architecture,
    dataset: PairDataset,
    make_objective: ObjectiveMaker,
    identity: dict[str, Any],
) -> None:
    """The job once the process groups exist."""
    output = Path(settings.training.output)
    resume_from, state = _resume_point(settings, identity) or (None, {})
    check_samples(dataset, settings.data.sequence_length)
    rules = rules_for(architecture)
    steps = total_steps(settings, len(dataset))
    chunks = build_model(architecture, settings.model, settings.parallel, settings.training.precision)
    stream = StepStream(
        dataset,
        SampleOrder(len(dataset), settings.training.seed, shuffle=settings.data.shuffle),
        row_settings(settings),
        table_side=architecture.vision.position_grid,
    )
    in_chunks: list[WeightSource] = []

    def load(wanted: WeightSource) -> None:
        if in_chunks != [wanted]:
            # Every byte of the checkpoint to resume from has been verified when it was chosen.
            verify = settings.checkpoint.verify and wanted.checkpoint != resume_from
            load_weights(chunks, architecture, wanted.folder, wanted.checkpoint, verify=verify)
            in_chunks[:] = [wanted]

    source = partial(_start_weights, settings)
    objective, more = make_objective(Start(architecture, stream, chunks, load, source, resume_from, state))
    identity = identity | more
    load(WeightSource(Path(settings.model.folder), resume_from) if resume_from else source())
    shards = local_shards(chunks, rules)
    freeze(shards, settings.optimizer)
    trainer = build_trainer(
        chunks, shards, settings.optimizer, precision=settings.training.precision, total_steps=steps
    )
    first = 0
    if resume_from:
        load_optimizer(resume_from, state, shards, trainer.optimizer)
        trainer.scheduler.step(increment=state["step"])
        load_random_state(resume_from)
        first = state["step"]
    log = None
    with platform.together():
        if platform.is_rank_zero():
            log = RunLog(output, first_step=first, total_steps=steps, log_every=settings.training.log_every)
            save_settings(settings, output / "config.yaml")
            for line in trainable_table(rules, settings.optimizer):
                log.say(line)
            log.say(
                f"{len(dataset):,} samples, {steps:,} steps of {settings.training.global_batch_size} samples"
                + (f", resumed after step {first}" if first else "")
            )
    expert_load = None
    if architecture.experts is not None:
        expert_load = ExpertLoad(trainer.chunks, architecture.num_layers, architecture.experts.num_experts)

    metadata = {
        "fingerprint": identity["data_fingerprint"],
        "experts_in_out": expert_layout(settings.model.folder, architecture),
    }

    def save(step: int, required: bool) -> None:
        """A checkpoint that could not be written ends the job only where it is `required`; else the next may be."""
        now = {"step": step, "updates": step, "samples": step * settings.training.global_batch_size, **identity}
        try:
            save_checkpoint(
                output, now, shards, trainer.optimizer,
                hf_folder=settings.model.folder, metadata=metadata, keep=settings.checkpoint.keep,
            )  # fmt: skip
        except OSError as error:  # raised alike on every rank
            if required:
                raise
            if log:
                log.say(
                    f"WARNING: THE CHECKPOINT OF STEP {step} WAS NOT WRITTEN: {error}. Make room: training goes on, "
                    f"and tries again after {settings.checkpoint.every} steps"
                )

    for chunk in trainer.chunks:
        chunk.train()
    if first >= steps:
        platform.print_once(f"{output} has already been trained for {first} steps: nothing to do")
    else:
        train(
            trainer,
            objective,
            prefetched_steps(stream, first, steps, ahead=settings.data.prefetch_steps, workers=settings.data.workers),
            on_step=log.step if log else lambda numbers: None,
            save=save,
            save_every=settings.checkpoint.every,
            last_step=steps,
            stop_after=settings.training.stop_after,
            expert_load=expert_load,
        )
    if log:
        log.close()
    platform.barrier()


def _resume_point(settings: JobSettings, identity: dict[str, Any]) -> tuple[Path, dict[str, Any]] | None:
    """The checkpoint to go on from and its state. Collective. Raises ValueError when the folder is someone else's, the
    job changed or the checkpoint is damaged."""
    output = Path(settings.training.output)
    for line in platform.from_rank_zero(lambda: _prepare_folder(output, settings.checkpoint.resume)):
        platform.print_once(line)
    return resume_point(
        output,
        partial(check_identity, identity=identity),
        verify=settings.checkpoint.verify,
        fallback=settings.checkpoint.fallback,
    )


def _prepare_folder(output: Path, resume: bool) -> list[str]:
    """Raise ValueError for a folder that is not ours to write; else clean it -> lines that say what was there."""
    has_checkpoints = bool(checkpoints(output))
    others = strangers(output)
    if others and not (has_checkpoints and resume):
        raise ValueError(f"training.output={output} already holds something else ({others[0]}): choose another folder")
    if has_checkpoints and not resume:
        raise ValueError(
            f"training.output={output} holds checkpoints of an earlier run and checkpoint.resume is false: choose "
            "another folder, or set checkpoint.resume=true"
        )
    return tidy(output)


def check_identity(found: Path, state: dict, identity: dict[str, Any]) -> None:
    """Raise ValueError for the first thing in which the checkpoint's job was another one."""
    for name, value in identity.items():
        if state.get(name) != value:
            raise ValueError(
                f"{found} was trained with {name}={state.get(name)}, this job has {value}: an exact resume needs the "
                "same (the data fingerprint covers shards, prompt, tokenizer and picture settings); use another output "
                "folder and model.checkpoint to start anew from its weights"
            )


def _start_weights(settings: JobSettings) -> WeightSource:
    """What a new run starts from; `load_weights` checks that a checkpoint is of this model."""
    checkpoint = find_checkpoint(settings.model.checkpoint) if settings.model.checkpoint else None
    return WeightSource(Path(settings.model.folder), checkpoint)


def check_samples(dataset: PairDataset, sequence_length: int) -> None:
    """Every sample can be used and fits, before any work. Collective: the ranks share it, and all raise alike."""
    problems = dataset.check(range(platform.rank(), len(dataset), platform.world_size()), sequence_length)
    found = [problem for part in platform.gather(problems) for problem in part]
    if found:
        more = f" (and {len(found) - 1} more such samples)" if len(found) > 1 else ""
        raise ValueError(found[0] + more)
