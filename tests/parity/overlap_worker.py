"""Runs on every rank: cases of the parity matrix with twice the ranks, their data-parallel communication overlapped and
not, numbers into JSON files.

Usage: -m tests.parity.overlap_worker WORK KIND/LAYOUT [KIND/LAYOUT ...]; test_overlap.py starts it.
"""

import hashlib
import json
import sys
from pathlib import Path

import torch
from megatron.core import parallel_state
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from editcaption_mega import platform
from editcaption_mega.data.batching.loader import Step
from editcaption_mega.objectives import SFTObjective
from editcaption_mega.planning.dry_run.operations import is_view
from editcaption_mega.training.loop import train_step
from editcaption_mega.training.optimizer import build_train_state
from tests.helpers import tiny

from . import worker

STEPS, SAVED_AFTER = 3, 2  # Megatron's first step reduces everything behind its backward passes
BUCKET = 30_000  # parameters: a few buckets in each chunk of the tiny models


def ranks_of(layout: str) -> int:
    """Two data-parallel ranks for each of the layout's own."""
    return 2 if layout == "DP2" else 2 * worker.ranks_of(layout)


class ReadTooEarly(TorchDispatchMode):
    """Sees every operator, and names those that read a weight whose gather nobody has waited for."""

    def __init__(self, chunks) -> None:
        super().__init__()
        self.groups = [g for chunk in chunks for g in chunk.bucket_groups + chunk.expert_parallel_bucket_groups]
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace != "c10d" and not is_view(func):
            pending = [bucket.param_data for g in self.groups if g.param_gather_handle for bucket in g.buckets]
            for tensor in (a for a in args if isinstance(a, Tensor)):
                self.seen += [f"{func} {list(tensor.shape)}" for data in pending if overlap(tensor, data)]
        return func(*args, **(kwargs or {}))


def overlap(a: Tensor, b: Tensor) -> bool:
    return (
        a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
        and a.data_ptr() < b.data_ptr() + b.numel() * b.element_size()
        and b.data_ptr() < a.data_ptr() + a.numel() * a.element_size()
    )


class Case(worker.Case):
    """A case whose data-parallel communication overlaps, or not."""

    def __init__(self, folder: Path, layout: str, name: str, *, overlaps: bool, start: Path | None = None):
        super().__init__(folder, layout, name, start=start)
        self.trainer = build_train_state(
            self.chunks, self.param_shards, worker.OPTIMIZER, precision="fp32", total_steps=STEPS,
            overlap=overlaps, bucket_size=BUCKET,
        )  # fmt: skip
        self.early = ReadTooEarly(self.trainer.chunks)

    def train(self, first: int, last: int) -> list[tuple[float, float]]:
        """Loss and gradient norm of each step."""
        numbers = []
        for number in range(first, last):
            with self.early:
                step = train_step(self.trainer, SFTObjective(), self.make_step(number))
            numbers.append((step["loss"], step["grad_norm"]))
        return numbers

    def make_step(self, number: int) -> Step:
        """Two rows or more of two samples for each data-parallel rank; one sample in four has no pictures."""
        rows = max(2, self.parallel.pipeline_model_parallel_size)
        count = 2 * rows * parallel_state.get_data_parallel_world_size()
        samples = tiny.samples(count, seed=100 + number, text_only=range(3, count, 4))
        responses = sum(len(sample.answer_ids) for sample in samples)
        return Step(number, worker.rows_of(samples, self.parallel), worker.ROW, responses, count)

    def digest(self) -> str:
        """Of this rank's weights."""
        digest = hashlib.sha256()
        for shard in self.param_shards:
            digest.update(shard.parameter.detach().numpy().tobytes())
        return digest.hexdigest()

    @property
    def buckets(self) -> int:
        return sum(len(chunk.bucket_groups) for chunk in self.trainer.chunks)


def train(work: Path, kind: str, layout: str, overlaps: bool) -> None:
    slug = worker.slug_of(kind, layout) + ("-on" if overlaps else "-off")
    case = Case(work / kind, layout, slug, overlaps=overlaps)
    numbers = case.train(0, SAVED_AFTER)
    case.save(work / "runs" / slug, SAVED_AFTER)
    numbers += case.train(SAVED_AFTER, STEPS)
    case.save(work / "runs" / slug, STEPS)  # waits for the last gathers
    finish(work, slug, {"numbers": numbers, "digest": case.digest(), "early": case.early.seen, "buckets": case.buckets})


def resume(work: Path, kind: str, layout: str) -> None:
    """The second half again, from the checkpoint that the overlapping run wrote while its gathers ran."""
    slug = worker.slug_of(kind, layout)
    checkpoint = work / "runs" / f"{slug}-on" / "checkpoints" / f"step_{SAVED_AFTER:08d}"
    case = Case(work / kind, layout, f"{slug}-resumed", overlaps=True, start=checkpoint)
    case.resume(checkpoint, SAVED_AFTER)
    numbers = case.train(SAVED_AFTER, STEPS)
    case.save(work / "runs" / f"{slug}-resumed", STEPS)
    finish(work, f"{slug}-resumed", {"numbers": numbers, "digest": case.digest(), "early": case.early.seen})


def finish(work: Path, slug: str, numbers: dict) -> None:
    path = work / "overlap" / f"{slug}.{platform.rank()}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(numbers))
    platform.destroy()


def main() -> None:
    work = Path(sys.argv[1])
    torch.set_num_threads(1)
    for kind, layout in (name.split("/") for name in sys.argv[2:]):
        worker.in_child(train, work, kind, layout, False)
        worker.in_child(train, work, kind, layout, True)
        worker.in_child(resume, work, kind, layout)


if __name__ == "__main__":
    main()
