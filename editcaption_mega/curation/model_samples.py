"""What a model writes for each pair of a set, in a file that grows batch by batch, so that a killed run goes on."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from editcaption_mega.data.batching.dataset import PairDataset
from editcaption_mega.files import parse_json, write_atomically
from editcaption_mega.inference import Generator
from editcaption_mega.inference.local.instructions import write_instructions
from editcaption_mega.progress import Progress
from editcaption_mega.settings import SettingsError


@dataclass(frozen=True)
class SamplingSettings:
    samples: int = 1  # instructions per pair
    temperature: float = 0.0  # 0: the likeliest tokens (then one sample says all)
    seed: int = 0
    max_new_tokens: int = 256
    batch_size: int = 32  # pairs answered at once

    def __post_init__(self) -> None:
        for name in ("samples", "max_new_tokens", "batch_size"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name}={getattr(self, name)} must be at least 1")
        if self.temperature < 0:
            raise SettingsError(f"temperature={self.temperature} must be 0 or more")
        if self.temperature == 0 and self.samples > 1:
            raise SettingsError(
                f"samples={self.samples} at temperature 0 would be one text {self.samples} times: set a temperature"
            )


def sampled_instructions(
    dataset: PairDataset,
    load_generator: Callable[[], Generator],
    path: Path,
    settings: SamplingSettings,
    model: str,
    progress: Progress,
) -> dict[str, list[dict[str, Any]]]:
    """Pair id -> the objects of `write_instructions`, one per sample; made where `path` does not have them yet.

    model: the digest of the model's weights. Raises ValueError for a file of another model, data or settings."""
    head = {"model": model, **dataset.fingerprints, **asdict(settings)}
    done = _read(path, head)
    total = settings.samples * len(dataset)
    if len(done) != total:
        # Whole batches only, so that what is sampled does not depend on where an earlier run was killed.
        rounds, first = divmod(len(done), len(dataset))
        first -= first % settings.batch_size
        done = done[: rounds * len(dataset) + first]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, "".join(json.dumps(record) + "\n" for record in [head, *done]))
        samples = _sample(dataset, load_generator(), settings, rounds, first)
        with open(path, "a", encoding="utf-8") as out:
            for record in progress(samples, total - len(done), "instructions"):
                out.write(json.dumps(record) + "\n")
                out.flush()
                done.append(record)
    by_pair: dict[str, list[dict[str, Any]]] = {}
    for record in done:
        by_pair.setdefault(record["id"], []).append(record)
    return by_pair


def _sample(
    dataset: PairDataset, generator: Generator, settings: SamplingSettings, rounds: int, first: int
) -> Iterator[dict[str, Any]]:
    """From pair `first` of round `rounds` on."""
    for number in range(rounds, settings.samples):
        yield from write_instructions(
            generator,
            dataset,
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            seed=settings.seed + number * len(dataset),
            batch_size=settings.batch_size,
            first=first if number == rounds else 0,
        )


def _read(path: Path, head: dict[str, Any]) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    records = []
    with open(path, "rb") as file:
        for line in file:
            try:
                records.append(parse_json(line))
            except ValueError:
                break  # the line that a killed run was writing
    if not records or records[0] != head:
        there = records[0] if records and isinstance(records[0], dict) else {}
        different = [name for name in head if there.get(name) != head[name]]
        raise ValueError(
            f"{path} holds samples made with other settings ({', '.join(different)} differ): choose another output "
            "folder or remove the file"
        )
    return records[1:]
