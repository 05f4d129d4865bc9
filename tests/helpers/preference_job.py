"""Preference shards of the synthetic world and DPO job settings, for tests that train for real."""

import dataclasses
from pathlib import Path

from editcaption_mega.data.images.decode import encode_png
from editcaption_mega.data.shards.reader import ShardWriter
from editcaption_mega.data.synthetic import WorldSettings, render_pair
from editcaption_mega.settings import DPOSettings, PreferenceSettings, ReferenceSettings
from tests.helpers import small_job

MODES = (["orientation"], ["viewpoint", "detail"], ["detail"])


def write_shards(folder: Path, count: int = 16, seeds: tuple[int, int] = (5, 6), **change) -> Path:
    """Pairs whose rejected answer is the instruction of another pair. `change` replaces fields of the first pair."""
    with ShardWriter(folder) as writer:
        for i in range(count):
            made, other = (render_pair(WorldSettings(), seed, i) for seed in seeds)
            fields = {
                "chosen": made.pair.instruction,
                "rejected": other.pair.instruction,
                "instruction": None,
                "failure_modes": MODES[i % 3],
                "severity": (i % 5) / 4,
            }
            pair = made.pair.model_copy(update=fields | (change if i == 0 else {}))
            writer.add(pair, encode_png(made.source), "png", encode_png(made.target), "png")
    return folder


def job(folder: Path, shards: Path, output: Path, *, preference=None, reference=None, **training) -> DPOSettings:
    plain = small_job.job(folder, shards, output, **training)
    fields = {field.name: getattr(plain, field.name) for field in dataclasses.fields(plain)}
    return DPOSettings(
        **fields,
        preference=PreferenceSettings(**(preference or {})),
        reference=ReferenceSettings(**(reference or {})),
    )
