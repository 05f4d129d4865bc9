"""What a reader of the log must know of a start: how much it sees of which samples, at which rates, what changed."""

from pathlib import Path

from editcaption_mega.conversion import AdapterChoice, rules_for
from editcaption_mega.data.batching.dataset import PairDataset
from editcaption_mega.data.batching.loader import StepStream
from editcaption_mega.data.batching.mixed_order import MixedOrder
from editcaption_mega.data.batching.order import Order
from editcaption_mega.data.batching.picture_cost import picture_lines
from editcaption_mega.data.shards.shard_columns import ShardColumns
from editcaption_mega.model import Architecture
from editcaption_mega.settings import JobSettings
from editcaption_mega.words import counted

from .identity import changes
from .learning_rate import schedule_lines
from .optimizer import trainable_table
from .run_folder import Resumed


def first_lines(settings: JobSettings, stream: StepStream[PairDataset], steps: int, resumed: Resumed) -> list[str]:
    """steps: of the whole run. Raises ValueError for samples that cannot be divided into rows."""
    batch, columns = settings.training.global_batch_size, stream.reader.dataset.shards.columns
    size = len(columns.ids)
    lines = [
        f"{counted(size, 'sample')}, {counted(steps, 'step')} of {counted(batch, 'sample')}: "
        + ("mixed by data.weights" if settings.data.weights else _passes(steps * batch, size))
        + (f", resumed after step {resumed.step}" if resumed.checkpoint else "")
    ]  # fmt: skip
    lines += _part(settings, columns)
    lines += folder_lines(settings, stream.order, columns, steps)
    if batch > size and not settings.data.weights:
        lines.append(
            f"note: training.global_batch_size={batch} is more than the {size} samples there are, so one step has "
            f"each of them about {batch / size:.1f} times"
        )
    lines += picture_lines(columns.pixels, stream.reader.dataset.images)
    lines.append(_rows(settings, stream, resumed.step))
    lines += schedule_lines(settings.optimizer, steps)
    profiled = settings.training.profile_steps
    if profiled and not resumed.step < profiled[0] <= profiled[1] <= steps:
        lines.append(
            f"note: training.profile_steps={profiled} are not all among the steps {resumed.step + 1} to {steps}"
        )
    if resumed.unchecked:
        lines.append(
            f"note: {resumed.checkpoint} is of an earlier version and does not tell {', '.join(resumed.unchecked)}: "
            "whether they are the same was not checked"
        )
    if resumed.checkpoint:
        lines += changes(Path(settings.training.output), resumed.state, settings)
    return lines


def trained_lines(settings: JobSettings, architecture: Architecture, choice: AdapterChoice | None) -> list[str]:
    """What is trained, weights or adapters, and which setting has no meaning for these."""
    if choice is None:
        return trainable_table(rules_for(architecture), settings.optimizer)
    lines, delayed = choice.lines(), settings.parallel.delayed_weight_gradients
    if delayed is not None:
        lines.append(
            f"note: parallel.delayed_weight_gradients={delayed} changes nothing: it is of the gradients of weights, "
            "which with adapters have none"
        )
    return lines


def _passes(seen: int, size: int) -> str:
    """How often the samples of a set of this size come, where the run sees so many of it."""
    count = f"{seen / size:.3g}"
    return f"{count} {'pass' if count == '1' else 'passes'} over them"


def _part(settings: JobSettings, columns: ShardColumns) -> list[str]:
    most, size, indexed = settings.data.max_samples, len(columns.ids), columns.indexed
    if not most:
        return []
    if size == indexed or (size < most and not settings.data.weights):
        return [f"note: data.max_samples={most} takes all of the {size:,} samples there are"]
    order = f"in the order of training.seed={settings.training.seed}" if settings.data.shuffle else "as they stand"
    return [
        f"data.max_samples={most}: {size:,} of the {indexed:,} samples in data.shards are trained on, the first "
        f"{order}; the others never are"
    ]


def folder_lines(settings: JobSettings, order: Order, columns: ShardColumns, steps: int) -> list[str]:
    """What each of several folders gives in so many steps; none where there is one folder."""
    batch = settings.training.global_batch_size
    folders, sizes, seen = settings.data.shards, columns.sizes, steps * batch
    if len(folders) == 1:
        return []
    if isinstance(order, MixedOrder):
        taken = order.taken(seen)
    else:
        taken = [round(seen * size / sum(sizes)) for size in sizes]
    about = "" if settings.data.weights else "about "
    lines = []
    for folder, size, count in zip(folders, sizes, taken, strict=True):
        share = count / seen
        lines.append(
            f"{folder}: {counted(size, 'sample')}, "
            f"{about}{count:,} of the run's {seen:,} ({share:.1%}), {_passes(count, size)}"
        )
        if settings.data.weights and (of_step := share * batch) > size:
            lines.append(
                f"note: one step has each sample of {folder} about {of_step / size:.1f} times: lower "
                "training.global_batch_size or the folder's entry of data.weights"
            )
    return lines


def _rows(settings: JobSettings, stream: StepStream[PairDataset], step: int) -> str:
    """What memory depends on."""
    plan = stream.reader.plan(stream.samples(step))
    rows = f"rows of up to data.sequence_length={settings.data.sequence_length:,} tokens"
    what = rows if settings.data.packing else "a sample each (data.packing=false)"
    return (
        f"micro-batches are {what}, which is what memory depends on; training.global_batch_size="
        f"{settings.training.global_batch_size} changes only how many a data-parallel rank computes one after another: "
        f"{len(plan.sequences)} of {plan.length:,} tokens in the next step"
    )
