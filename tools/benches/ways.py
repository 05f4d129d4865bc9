"""What the benches of training steps share: a random model in a folder, the measuring of a way to do the work, the
table."""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from editcaption_mega.data.synthetic import WorldSettings, corpus_texts
from editcaption_mega.model.random_folder import SmallModel, train_tokenizer, write_random_folder

from .measuring import peak, reset_peak

CPU = torch.device("cpu")
SIZE = SmallModel(
    hidden_size=256, num_layers=4, num_heads=8, num_kv_heads=4, head_dim=32, intermediate_size=768, experts=0,
    vision_hidden_size=128, vision_depth=2, vision_intermediate_size=256, vocabulary=32768,
)  # fmt: skip


@dataclass(eq=False)  # a key of dicts
class Way:
    """One way to do a step. losses: of each step. peak_bytes: what model, optimizer and steps added at most."""

    name: str
    tokens: int = 0
    times: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    peak_bytes: int = 0

    def record(self, suite: str, pairs: int, ours: "Way") -> dict:
        median = statistics.median(self.times)
        return {
            "suite": suite, "name": self.name, "ms": 1e3 * median, "pairs_per_second": pairs / median,
            "time_ratio": median / statistics.median(ours.times), "tokens": self.tokens,
            "fastest_ms": 1e3 * min(self.times), "slowest_ms": 1e3 * max(self.times),
            "peak_bytes": self.peak_bytes, "memory_ratio": self.peak_bytes / max(1, ours.peak_bytes),
            "losses": self.losses,
        }  # fmt: skip


Step = Callable[[], float]  # one optimizer step -> its loss
Trainer = Callable[[int, Way, Callable[[], None]], None]  # runs so many steps into the way, and calls between them


def measure_memory(way: Way, make: Callable[[], Step]) -> None:
    """The peak of two steps of a way that is alone in the process, its model and optimizer included."""
    before = reset_peak(CPU)
    step = make()
    step(), step()
    way.peak_bytes = peak(CPU) - before


def measure_trainer_memory(way: Way, train: Trainer) -> None:
    """As `measure_memory`, of somebody else's trainer."""
    before = reset_peak(CPU)
    train(2, way, lambda: None)
    way.peak_bytes = peak(CPU) - before
    way.losses.clear(), way.times.clear()


def take_turns(ways: Mapping[Way, Step], peer: Way, train: Trainer, repeats: int) -> None:
    """Times and losses of `repeats` steps of each way, in turns with those of a trainer. One more turn warms up."""

    def between() -> None:
        for way, step in ways.items():
            began = time.perf_counter()
            way.losses.append(step())
            way.times.append(time.perf_counter() - began)

    train(1 + repeats, peer, between)
    for way in (*ways, peer):
        del way.times[-(1 + repeats)]


@contextmanager
def scratch_folder(size: SmallModel = SIZE) -> Iterator[Path]:
    """A folder with a random model in model/, gone afterwards."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        tokenizer = train_tokenizer(corpus_texts(WorldSettings(), seed=1, count=300), vocabulary=640)
        write_random_folder(root / "model", tokenizer, size)
        yield root


def markdown(records: list[dict], machine: dict) -> str:
    lines = [
        f"{machine['device']}, {machine['threads']} threads, PyTorch {machine['torch']}, medians of "
        f"{machine['repeats']} turns; {machine['case']}",
        "",
        "| way | ms | from .. to | pairs/s | time / ours | tokens | peak MiB | memory / ours | losses |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for record in records:
        losses = " ".join(f"{loss:.6g}" for loss in record["losses"][:4])
        tokens = f"{record['tokens']:,}" if record["tokens"] else ""
        lines.append(
            f"| {record['name']} | {record['ms']:,.0f} | {record['fastest_ms']:,.0f} .. {record['slowest_ms']:,.0f} | "
            f"{record['pairs_per_second']:.2f} | {record['time_ratio']:.2f} | {tokens} | "
            f"{record['peak_bytes'] / 2**20:,.0f} | {record['memory_ratio']:.2f} | {losses} |"
        )
    return "\n".join(lines) + "\n"
