"""What both DPO benchmarks share: a random model in a folder, one way to do the work, and the table."""

import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from editcaption_mega.data.synthetic import WorldSettings, corpus_texts
from editcaption_mega.model.random_folder import SmallModel, train_tokenizer, write_random_folder

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
            "peak_bytes": self.peak_bytes, "memory_ratio": self.peak_bytes / max(1, ours.peak_bytes),
            "losses": self.losses,
        }  # fmt: skip


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder with a random model in model/, gone afterwards."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        tokenizer = train_tokenizer(corpus_texts(WorldSettings(), seed=1, count=300), vocabulary=640)
        write_random_folder(root / "model", tokenizer, SIZE)
        yield root


def markdown(records: list[dict], machine: dict) -> str:
    lines = [
        f"{machine['device']}, {machine['threads']} threads, PyTorch {machine['torch']}, medians of "
        f"{machine['repeats']} turns; {machine['case']}",
        "",
        "| way | ms | pairs/s | time / ours | tokens | peak MiB | memory / ours | losses |",
        "|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for record in records:
        losses = " ".join(f"{loss:.6g}" for loss in record["losses"][:4])
        tokens = f"{record['tokens']:,}" if record["tokens"] else ""
        lines.append(
            f"| {record['name']} | {record['ms']:,.0f} | {record['pairs_per_second']:.2f} | "
            f"{record['time_ratio']:.2f} | {tokens} | {record['peak_bytes'] / 2**20:,.0f} | "
            f"{record['memory_ratio']:.2f} | {losses} |"
        )
    return "\n".join(lines) + "\n"
