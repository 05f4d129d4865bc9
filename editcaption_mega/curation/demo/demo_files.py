"""Where each step of the demonstration leaves what it makes."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DemoFiles:
    """root: the folder of the demonstration."""

    root: Path

    def shards(self, name: str) -> Path:
        """synthetic, pool, filtered, sft or preference."""
        return self.root / "shards" / name

    def column_file(self, name: str) -> Path:
        """captions, log_probs, agreement, measures or lint."""
        return self.root / "columns" / f"{name}.jsonl"

    def log_probs(self, view: str) -> Path:
        """given, swapped or mirrored; or reference: the given pictures' by the model that DPO began with."""
        return self.root / "log_probs" / f"{view}.jsonl"

    def tasks(self, form: str) -> Path:
        return self.root / "people" / form

    def answers(self, form: str) -> Path:
        return self.root / "people" / f"{form}.answers.jsonl"

    def beside(self, name: str, ending: str) -> Path:
        """What a step writes beside its shards, as shards/filtered.survival.json."""
        return self.shards(name).with_name(f"{name}.{ending}")

    @property
    def truth(self) -> Path:
        return self.root / "raw/truth.jsonl"

    @property
    def run(self) -> Path:
        return self.root / "sft"
