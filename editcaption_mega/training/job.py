"""A whole SFT job: check, build, resume or start, train, save."""

import json
from pathlib import Path

import torch
from megatron.core import parallel_state

from editcaption_mega import platform
from editcaption_mega.conversion import find_checkpoint, load_weights, local_shards, rules_for
from editcaption_mega.conversion.hugging_face import expert_layout
from editcaption_mega.data import SampleOrder
from editcaption_mega.data.stream import Answers, PairDataset, RowSettings, StepStream, open_pairs, prefetched_steps
from editcaption_mega.model import Architecture, build_model
from editcaption_mega.model.build import check_layout
from editcaption_mega.model.layers import check_backend
from editcaption_mega.objectives import SFTObjective
from editcaption_mega.settings import JobSettings, ParallelSettings, save_settings

from .checkpoint import load_optimizer, load_random_state, newest_checkpoint, save_checkpoint
from .experts import ExpertLoad
from .loop import train
from .metrics import RunLog
from .optimizer import build_trainer, freeze, trainable_table


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


def run_sft(settings: JobSettings) -> None:
    """Train as the settings say; resumes by itself. Raises ValueError before any work when something cannot fit."""
    architecture = Architecture.from_folder(settings.model.folder)
    check_backend(settings.model.backend)
    check_layout(architecture, settings.parallel)
    settings.parallel.data_parallel_size(platform.world_size())
    output = Path(settings.training.output)
    dataset = open_dataset(settings, architecture)
    fingerprint = dataset.fingerprint
    resume_from = _resume_point(settings, output, fingerprint)

    platform.initialize(layout_of(settings.parallel), settings.training.seed)
    try:
        _run(settings, architecture, dataset, fingerprint, resume_from)
    finally:
        platform.destroy()


def _run(
    settings: JobSettings,
    architecture: Architecture,
    dataset: PairDataset,
    fingerprint: str,
    resume_from: Path | None,
) -> None:
    """The job once the process groups exist."""
    output = Path(settings.training.output)
    check_samples(dataset, settings.data.sequence_length)
    rules = rules_for(architecture)
    steps = total_steps(settings, len(dataset))
    chunks = build_model(architecture, settings.model, settings.parallel, settings.training.precision)
    load_weights(chunks, architecture, settings.model.folder, resume_from or _start_checkpoint(settings))
    shards = local_shards(chunks, rules)
    freeze(shards, settings.optimizer)
    trainer = build_trainer(
        chunks, shards, settings.optimizer, precision=settings.training.precision, total_steps=steps
    )
    first = 0
    if resume_from:
        state = json.loads((resume_from / "state.json").read_text(encoding="utf-8"))
        load_optimizer(resume_from, state, shards, trainer.optimizer)
        trainer.scheduler.step(increment=state["step"])
        load_random_state(resume_from)
        first = state["step"]
    stream = StepStream(
        dataset,
        SampleOrder(len(dataset), settings.training.seed, shuffle=settings.data.shuffle),
        row_settings(settings),
        table_side=architecture.vision.position_grid,
    )
    log = None
    if platform.is_rank_zero():
        log = RunLog(output, first_step=first, total_steps=steps, log_every=settings.training.log_every)
        save_settings(settings, output / "config.yaml")
        for line in trainable_table(rules, settings.optimizer):
            log.say(line)
        log.say(
            f"{len(dataset):,} samples, {steps:,} steps of {settings.training.global_batch_size} samples"
            + (f", resumed after step {first}" if first else "")
        )
    load = None
    if architecture.experts is not None:
        load = ExpertLoad(trainer.chunks, architecture.num_layers, architecture.experts.num_experts)

    metadata = {"fingerprint": fingerprint, "experts_in_out": expert_layout(settings.model.folder, architecture)}

    def save(step: int) -> None:
        state = {
            "step": step,
            "updates": step,
            "samples": step * settings.training.global_batch_size,
            "data_fingerprint": fingerprint,
            "global_batch_size": settings.training.global_batch_size,
            "seed": settings.training.seed,
        }
        save_checkpoint(
            output, state, shards, trainer.optimizer,
            hf_folder=settings.model.folder, metadata=metadata, keep=settings.checkpoint.keep,
        )  # fmt: skip

    for chunk in trainer.chunks:
        chunk.train()
    if first >= steps:
        platform.print_once(f"{output} has already been trained for {first} steps: nothing to do")
    else:
        train(
            trainer,
            SFTObjective(),
            prefetched_steps(stream, first, steps, ahead=settings.data.prefetch_steps, workers=settings.data.workers),
            global_batch_size=settings.training.global_batch_size,
            on_step=log.step if log else lambda numbers: None,
            save=save,
            save_every=settings.checkpoint.every,
            last_step=steps,
            stop_after=settings.training.stop_after,
            expert_load=load,
        )
    if log:
        log.close()
    platform.barrier()


def _resume_point(settings: JobSettings, output: Path, fingerprint: str) -> Path | None:
    """The checkpoint to go on from. Raises ValueError when the folder is someone else's, or the data changed."""
    found = newest_checkpoint(output)
    if found is None or not settings.checkpoint.resume:
        ours = {"config.yaml", "metrics.jsonl", "log.txt", "tensorboard", "checkpoints"}
        strangers = sorted(path.name for path in output.iterdir() if path.name not in ours) if output.is_dir() else []
        if strangers:
            raise ValueError(
                f"training.output={output} already holds something else ({strangers[0]}): choose another folder"
            )
        if found is not None:
            raise ValueError(
                f"training.output={output} holds checkpoints of an earlier run and checkpoint.resume is false: choose "
                "another folder, or set checkpoint.resume=true"
            )
        return None
    state = json.loads((found / "state.json").read_text(encoding="utf-8"))
    now = {
        "data_fingerprint": fingerprint,
        "global_batch_size": settings.training.global_batch_size,
        "seed": settings.training.seed,
    }
    for name, value in now.items():
        if state[name] != value:
            raise ValueError(
                f"{found} was trained with {name}={state[name]}, this job has {value}: an exact resume needs the same "
                "(the data fingerprint covers shards, prompt, tokenizer and picture settings); use another output "
                "folder and model.checkpoint to start anew from its weights"
            )
    return found


def _start_checkpoint(settings: JobSettings) -> Path | None:
    if not settings.model.checkpoint:
        return None
    return find_checkpoint(settings.model.checkpoint)  # `load_weights` checks that it is of this model


def check_samples(dataset: PairDataset, sequence_length: int) -> None:
    """Every sample can be used and fits, before any work. Collective: the ranks share it, and all raise alike."""
    problems = dataset.check(range(platform.rank(), len(dataset), platform.world_size()), sequence_length)
    gathered: list = [None] * platform.world_size()
    torch.distributed.all_gather_object(gathered, problems)
    found = [problem for part in gathered for problem in part]
    if found:
        more = f" (and {len(found) - 1} more such samples)" if len(found) > 1 else ""
        raise ValueError(found[0] + more)
