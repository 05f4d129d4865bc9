"""The loader against webdataset and transformers' processor on the same shards, one core each, taking turns; and what
the thread that computes waits for it.

`tools/bench.py loader` is the command."""

import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from editcaption_mega import platform
from editcaption_mega.data import SampleOrder
from editcaption_mega.data.batching.dataset import PairDataset, open_pairs
from editcaption_mega.data.batching.loader import SequenceReader, Step, StepStream
from editcaption_mega.data.batching.packing import Packer
from editcaption_mega.data.images.patches import processor_patches
from editcaption_mega.data.shards.writer import ShardWriter
from editcaption_mega.data.text.prompt import load_tokenizer
from editcaption_mega.records import EditPair
from editcaption_mega.training.inputs import on_device
from editcaption_mega.training.speed import Speed, manual_garbage_collection

from .ways import scratch_folder

SIDE = 1024  # pixels of a picture: 1,024 tokens
QUALITY = 90
LIMITS = {"min_pixels": 4096, "max_pixels": SIDE * SIDE}
INSTRUCTION = "Replace the red car with a blue one and remove the shadow on the left."


@dataclass(eq=False)
class Side:
    """One way to prepare pairs. times: CPU seconds of each turn over all pairs."""

    name: str
    times: list[float] = field(default_factory=list)


def measure(pairs: int, samples: int, repeats: int, say: Callable[[str], None]) -> list[dict]:
    """Host work of each way, per picture, and the time of a step of `samples` samples outside computation."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with scratch_folder() as root:
            shards = write_pairs(root / "pairs", pairs)
            dataset = open_pairs([str(shards)], root / "model", **LIMITS)
            records = _throughput(dataset, root, pairs, repeats, say)
            return records + [_waiting(dataset, samples, repeats, processes, say) for processes in (False, True)]
    finally:
        torch.set_num_threads(threads)


def write_pairs(folder: Path, count: int) -> Path:
    """Pairs of JPEG pictures with detail at every scale, as photographs have."""
    generator = np.random.default_rng(1)

    def jpeg() -> bytes:
        total = np.zeros((SIDE, SIDE, 3), np.float32)
        for scale in (4, 16, 64, 256, SIDE):
            noise = generator.integers(0, 256, (scale, scale, 3), dtype=np.uint8)
            total += np.asarray(Image.fromarray(noise).resize((SIDE, SIDE), Image.Resampling.BICUBIC)) * scale**-0.5
        picture = np.clip((total - total.mean()) / total.std() * 50 + 128, 0, 255).astype(np.uint8)
        buffer = BytesIO()
        Image.fromarray(picture).save(buffer, "JPEG", quality=QUALITY)
        return buffer.getvalue()

    pictures = [jpeg() for _ in range(8)]
    common = {"category": "semantic", "edit_type": "replace", "instruction": INSTRUCTION}
    with ShardWriter(folder) as writer:
        for i in range(count):
            pair = EditPair.from_json({"schema": 1, "id": f"pair-{i:05d}", **common}, where="bench")
            writer.add(pair, pictures[i % 8], "jpg", pictures[(i + 3) % 8], "jpg")
    return folder


def packed_reader(
    dataset: PairDataset, sequence_length: int, num_grid_per_side: int = 48
) -> SequenceReader[PairDataset]:
    lengths, problems = dataset.measure(range(len(dataset)), sequence_length)
    assert not problems
    tokens = dataset.encoder.image_token_id, dataset.encoder.pad_token_id
    return SequenceReader(dataset, lengths, Packer(dataset.images, *tokens, num_grid_per_side, sequence_length))


def _throughput(dataset: PairDataset, root: Path, pairs: int, repeats: int, say: Callable[[str], None]) -> list[dict]:
    ours, theirs = Side("this loader"), Side("webdataset + processor")
    reader = packed_reader(dataset, 8192)
    length = int(reader.lengths.num_tokens[0])
    for turn in range(1 + repeats):  # the first turn warms up
        say(f"loader: turn {turn} of {repeats}")
        with _timed(ours, turn):
            mine = [reader.read([i], length) for i in range(pairs)]
        with _timed(theirs, turn):
            others = list(_peer(root, dataset))
    # What reaches the model: ours is normalized there.
    apart = max(
        (processor_patches(batch.images.pixels, dataset.images) - other["pixel_values"]).abs().max().item()
        for batch, other in zip(mine, others, strict=True)
    )
    same_ids = all(
        batch.input_ids[0, : other["input_ids"].shape[1]].tolist() == other["input_ids"][0].tolist()
        for batch, other in zip(mine, others, strict=True)
    )
    assert same_ids and apart <= 1e-6, "both prepare the same tensors"
    medians = {side: statistics.median(side.times) for side in (ours, theirs)}
    return [
        {
            "name": side.name, "ms_per_picture": 1e3 * median / pairs / 2, "pairs_per_second": pairs / median,
            "times_ours": median / medians[ours], "largest_difference": apart,
        }
        for side, median in medians.items()
    ]  # fmt: skip


@contextmanager
def _timed(side: Side, turn: int) -> Iterator[None]:
    began = time.process_time()
    yield
    if turn:
        side.times.append(time.process_time() - began)


def _peer(root: Path, dataset: PairDataset) -> Iterator[dict[str, torch.Tensor]]:
    """What a training script with webdataset does: decode, and the model's own processor on the conversation."""
    import webdataset
    from transformers import AutoImageProcessor, Qwen3VLProcessor, Qwen3VLVideoProcessor

    tokenizer = load_tokenizer(root / "model")
    images = AutoImageProcessor.from_pretrained(root / "model")
    images.size = {"shortest_edge": LIMITS["min_pixels"], "longest_edge": LIMITS["max_pixels"]}
    processor = Qwen3VLProcessor(images, tokenizer, Qwen3VLVideoProcessor(), chat_template=tokenizer.chat_template)
    text = processor.apply_chat_template(
        [*dataset.encoder.prompt.messages(), {"role": "assistant", "content": [{"type": "text", "text": INSTRUCTION}]}],
        tokenize=False,
    ).rstrip("\n")
    urls = sorted(str(path) for path in (root / "pairs").glob("*.tar"))
    for sample in webdataset.WebDataset(urls, shardshuffle=False).decode("pil"):
        pictures = [sample["src.jpg"], sample["tgt.jpg"]]
        yield processor(text=[text], images=pictures, return_tensors="pt")


def _waiting(dataset: PairDataset, samples: int, repeats: int, processes: bool, say: Callable[[str], None]) -> dict:
    """A step's milliseconds of the main thread outside computation, which is a pause until the next step is read."""
    say(f"loader: {2 + repeats} steps of {samples} samples, read by {'processes' if processes else 'threads'}")
    stream = StepStream(packed_reader(dataset, 8192), SampleOrder(len(dataset), 1), samples)
    was_read, device = threading.Semaphore(0), _Device()

    def noted() -> Iterator[Step]:
        for step in stream.steps(0, 2 + repeats, ahead=2, workers=2, processes=processes):
            device.take(step)
            was_read.release()
            yield step
        was_read.release()  # behind the last there is nothing to wait for

    waits: list[float] = []
    platform.initialize(platform.Layout(), seed=1)
    try:
        with manual_garbage_collection() as collect:
            speed, began = Speed(None), time.perf_counter()
            for step in platform.each_together(on_device(noted())):
                if step.number:  # the first has nothing to hide behind
                    waits.append(time.perf_counter() - began)
                else:
                    was_read.acquire()
                _forget_cache(dataset)
                was_read.acquire()
                time.sleep(0.1)
                began = time.perf_counter()
                speed.step_ended(step, 0)
                collect(step.number)
    finally:
        platform.destroy()
    return {
        "name": f"main thread, {'processes' if processes else 'threads'}", "samples": samples,
        "ms_per_step": 1e3 * statistics.median(waits), "most_ms": 1e3 * max(waits),
    }  # fmt: skip


class _Device:
    """Memory that steps are copied to and that is never given back to the system, as a GPU's allocator has it: what is
    freed on the host is freed by the thread that copies."""

    def __init__(self) -> None:
        self.memory: dict[tuple[int, int, str], torch.Tensor] = {}  # for even and odd steps, a row, a tensor of it

    def take(self, step: Step) -> None:
        for k, batch in enumerate(step.micro_batches):
            images = replace(batch.images, **self._copied(step.number % 2, k, batch.images))
            step.micro_batches[k] = replace(batch, images=images, **self._copied(step.number % 2, k, batch))

    def _copied(self, turn: int, k: int, part: object) -> dict[str, torch.Tensor]:
        tensors = {name: value for name, value in vars(part).items() if isinstance(value, torch.Tensor)}
        for name, value in tensors.items():
            memory = self.memory.get((turn, k, name))
            if memory is None or memory.numel() < value.numel():
                memory = self.memory[turn, k, name] = torch.empty(value.numel(), dtype=value.dtype)
            tensors[name] = memory[: value.numel()].view(value.shape).copy_(value)
        return tensors


def _forget_cache(dataset: PairDataset) -> None:
    """The next reads come from the disk."""
    for directory in dataset.shards.directories:
        for path in directory.glob("*.tar"):
            with open(path, "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def markdown(records: list[dict], machine: dict) -> str:
    lines = [
        f"{machine['device']}, PyTorch {machine['torch']}, medians of {machine['repeats']} turns; {machine['case']}",
        "",
        "| way | CPU ms per picture | pairs/s | time / ours | largest difference of the model's input |",
        "|---|---:|---:|---:|---:|",
    ]
    for record in records:
        if "ms_per_picture" in record:
            lines.append(
                f"| {record['name']} | {record['ms_per_picture']:.2f} | {record['pairs_per_second']:.1f} | "
                f"{record['times_ours']:.2f} | {record['largest_difference']:.1e} |"
            )
    lines += ["", "| a step outside computation | samples | ms | most ms |", "|---|---:|---:|---:|"]
    for record in records:
        if "ms_per_step" in record:
            lines.append(
                f"| {record['name']} | {record['samples']} | {record['ms_per_step']:.1f} | {record['most_ms']:.1f} |"
            )
    return "\n".join(lines) + "\n"
