"""What a training job would be, said without starting it: everything it reads is opened, and nothing is written.

One process does it for any number of ranks: samples are counted and packed by the loader's own code."""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from editcaption_mega.conversion import FolderReader, StoreReader, check_same_model, find_checkpoint, rules_for
from editcaption_mega.conversion.checkpoint_folders import checkpoints
from editcaption_mega.conversion.rules import Rule, unique_rules
from editcaption_mega.data.batching.dataset import PairDataset, SampleLengths
from editcaption_mega.data.batching.job_samples import JobSamples
from editcaption_mega.data.batching.order import Order
from editcaption_mega.data.batching.packing import plan_sequences
from editcaption_mega.data.batching.picture_cost import picture_lines
from editcaption_mega.data.shards.reader import ShardReader
from editcaption_mega.model import Architecture
from editcaption_mega.objectives import DPOObjective, SFTObjective
from editcaption_mega.progress import Progress, no_progress
from editcaption_mega.settings import DPOSettings, JobSettings, before_work
from editcaption_mega.words import counted

from .adapter_state import base_identity, check_start, chosen_adapters
from .first_lines import folder_lines, trained_lines
from .held_out_shards import held_out_lines
from .identity import changes, check_identity, identity
from .improvement import check_metric
from .pair_facts import pair_facts
from .prepare import new_run_source, total_steps
from .resume import read_state
from .run_folder import check_run_folder
from .setup import measure_samples, open_architecture, open_dataset

_LONGEST = 3  # samples that are named
_STEPS = 50  # steps whose rows are laid out
_GIB = 2**30
_BYTES_OF_VALUE = {"bf16": 2 + 12, "fp32": 12}  # in a checkpoint: weights, two moments, and fp32 weights where apart


class JobCheck(NamedTuple):
    """What was learned: lines for people, and what memory can be estimated from."""

    lines: list[str]
    architecture: Architecture
    dataset: PairDataset
    lengths: SampleLengths


def check_job(settings: JobSettings, world_size: int, progress: Progress = no_progress) -> JobCheck:
    """Open what the job of so many ranks reads, and say what it would do.

    Raises SettingsError for what cannot be opened or does not fit together, and for samples that cannot be trained on,
    ValueError for a pair that cannot be read."""
    objective = DPOObjective if isinstance(settings, DPOSettings) else SFTObjective
    architecture = open_architecture(settings, world_size)
    with before_work():
        check_metric(settings.evaluation.metric, objective.better)
        adapters = chosen_adapters(settings, architecture)
        source = _weights(settings, architecture)
        check_run_folder(Path(settings.training.output), settings.checkpoint.resume, objective.files)
    dataset = open_dataset(settings, objective.answers)
    steps = total_steps(settings.training, len(dataset))
    with before_work():
        order = JobSamples.of(settings.data, settings.training.seed).order(dataset.shards.columns)
        settings.optimizer.check_steps(steps)
    parts = identity(settings, dataset, architecture, objective.name)
    base = base_identity(new_run_source(settings)) if adapters else {}
    parts |= base
    with before_work():
        if adapters and not checkpoints(Path(settings.training.output)):
            check_start(adapters, base)
        earlier = _resume_lines(settings, parts)
    skip_bad = settings.data.skips_bad_samples
    lengths = measure_samples(dataset, settings.data.sequence_length, progress=progress, skip_bad=skip_bad)
    lines = [*dataset.notes, source, *trained_lines(settings, architecture, adapters)]
    lines += _sample_lines(dataset, lengths)
    lines += folder_lines(settings, order, dataset.shards.columns, steps)
    lines += _held_out(settings, dataset, progress)
    if isinstance(settings, DPOSettings):
        pair_facts(dataset, settings.preference, skip_bad=skip_bad)
        lines.append(_reference_line(settings, len(dataset)))
    with before_work():
        lines += _step_lines(settings, lengths, (order, steps), world_size)
    lines += [*earlier, _disk_line(settings, adapters.rules if adapters else rules_for(architecture))]
    return JobCheck(lines, architecture, dataset, lengths)


def _weights(settings: JobSettings, architecture: Architecture) -> str:
    """The line of where the weights come from. Every tensor's name and shape has been looked at; none was read."""
    if settings.model.checkpoint:
        checkpoint = find_checkpoint(settings.model.checkpoint)
        check_same_model(StoreReader(checkpoint), architecture)
        return f"weights: {checkpoint}"
    files = FolderReader(Path(settings.model.folder)).weight_files
    size = sum(path.stat().st_size for path in files)
    return f"weights: {settings.model.folder}, {len(files)} file{'s' * (len(files) > 1)}, {_size(size)}"


def _resume_lines(settings: JobSettings, parts: dict[str, object]) -> Iterator[str]:
    """Where the run folder's run goes on. Raises ValueError for one of another job."""
    output = Path(settings.training.output)
    folders = checkpoints(output)
    if not folders:
        return iter([f"output: {output}, a new run"])
    state = read_state(folders[-1], verify=False)
    check_identity(folders[-1], state, parts)
    return iter([f"output: {output}, goes on after step {state['step']}", *changes(output, state, settings)])


def _sample_lines(dataset: PairDataset, lengths: SampleLengths) -> Iterator[str]:
    tokens, answers = lengths.num_tokens.astype(np.int64), int(lengths.answers.astype(np.int64).sum())
    total = int(tokens.sum())
    yield (
        f"samples: {len(tokens):,} with {total:,} tokens, of which answers {answers:,}; "
        f"{int(tokens.min()):,} to {int(tokens.max()):,} each, {total / len(tokens):,.0f} on average"
    )
    if bad := int((tokens == 0).sum()):
        yield f"note: the records of {bad:,} of them cannot be read; they are left out (data.bad_samples=skip)"
    yield from picture_lines(dataset.shards.columns.pixels, dataset.images)
    longest = np.argsort(-tokens, kind="stable")[:_LONGEST].tolist()
    yield "longest: " + ", ".join(f"{dataset.id(i)} ({int(tokens[i]):,} tokens)" for i in longest)


def _held_out(settings: JobSettings, training: PairDataset, progress: Progress) -> list[str]:
    """The lines of the held-out pairs, if there are some. Raises as `check_job`."""
    samples = JobSamples.held_out(settings.data)
    if samples is None:
        return []
    with before_work():
        samples.update()
        columns = samples.read()
        lines = held_out_lines(settings, columns, training.shards.columns)
    dataset = training.of_shards(ShardReader(samples.directories, columns))
    skip_bad = settings.data.skips_bad_samples
    measure_samples(dataset, settings.data.sequence_length, progress=progress, skip_bad=skip_bad)
    if isinstance(settings, DPOSettings):
        pair_facts(dataset, settings.preference, skip_bad=skip_bad)
    return lines


def _reference_line(settings: DPOSettings, count: int) -> str:
    reference, mode = settings.reference, settings.reference_mode
    if mode == "none":
        return f"reference: none, which {settings.preference.loss} does without"
    if mode == "adapters_off":
        return "reference: the model without its adapters, computed in each step; no second copy, no file"
    if mode == "resident":
        return "reference: a second copy of the model, in memory beside the first"
    if reference.file:
        return f"reference: the log-probs of {reference.file}"
    pairs = counted(count, "pair")
    return f"reference: the log-probs of {pairs}, computed before the first step and kept in the run folder"


def _step_lines(
    settings: JobSettings, lengths: SampleLengths, stream: tuple[Order, int], world_size: int
) -> Iterator[str]:
    """Steps, and the rows of the first ones. Raises ValueError for a batch that the ranks cannot divide."""
    training, parallel, data = settings.training, settings.parallel, settings.data
    count, batch = len(lengths.num_tokens), training.global_batch_size
    order, steps = stream
    passes = steps * batch / count
    yield (
        f"steps: {steps:,} of {counted(batch, 'sample')}, {passes:,.2f} passes over the samples; warm-up "
        f"{settings.optimizer.warmup_of(steps):,}; a checkpoint every {settings.checkpoint.every:,}"
    )
    ranks = parallel.data_parallel_size(world_size)
    rows, tokens, capacity = [], 0, 0
    for step in range(min(steps, _STEPS)):
        taken = lengths.num_tokens[[order.at(step * batch + k) for k in range(batch)]].tolist()
        plan = plan_sequences(taken, data.sequence_length, ranks * parallel.sequence_multiple, data.packing)
        rows.append(len(plan))
        tokens += sum(taken)
        capacity += len(plan) * max(sum(taken[i] for i in row) for row in plan)
    per_rank = [number // ranks for number in (min(rows), max(rows))]
    many = f"{per_rank[0]}" if per_rank[0] == per_rank[1] else f"{per_rank[0]} to {per_rank[1]}"
    yield (
        f"rows: of at most {data.sequence_length:,} tokens, {100 * tokens / capacity:.1f} % filled; {many} of them in "
        f"a step, each a micro-batch, on each of {ranks} data-parallel ranks ({world_size} in all). Memory depends on "
        "data.sequence_length; a larger batch only has more rows"
    )


def _disk_line(settings: JobSettings, rules: Mapping[str, Rule]) -> str:
    """What checkpoints take, and what is free where they go. rules: of what they hold."""
    values = sum(rule.size for rule in unique_rules(rules))
    each = values * _BYTES_OF_VALUE[settings.training.precision]
    folder = Path(settings.training.output).absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    return (
        f"disk: a checkpoint takes about {_size(each)}, less where modules are frozen; {_size(free)} free at {folder}"
    )


def _size(count: float) -> str:
    return f"{count / _GIB:,.1f} GiB" if count >= _GIB else f"{count / 2**20:,.1f} MiB"
