"""A small folder, shards of the synthetic world and job settings, for tests that train for real."""

from pathlib import Path

from editcaption_mega.data.images.decode import encode_png
from editcaption_mega.data.shards.reader import ShardWriter
from editcaption_mega.data.synthetic import WorldSettings, corpus_texts, render_pair
from editcaption_mega.model.random_folder import SmallModel, train_tokenizer, write_random_folder
from editcaption_mega.settings import (
    CheckpointSettings,
    DataSettings,
    JobSettings,
    ModelSettings,
    OptimizerSettings,
    TrainingSettings,
)

SIZE = SmallModel(
    hidden_size=64, num_layers=4, num_heads=4, num_kv_heads=2, head_dim=16, intermediate_size=128, experts=4,
    expert_intermediate_size=32, vision_hidden_size=32, vision_depth=2, vision_heads=4, vision_intermediate_size=64,
)  # fmt: skip


def write_folder(folder: Path, size: SmallModel = SIZE) -> Path:
    texts = corpus_texts(WorldSettings(), seed=1, count=300)
    write_random_folder(folder, train_tokenizer(texts, vocabulary=500), size)
    return folder


def write_shards(folder: Path, count: int = 24, seed: int = 3) -> Path:
    with ShardWriter(folder, samples_per_shard=10) as writer:
        for index in range(count):
            pair = render_pair(WorldSettings(), seed, index)
            writer.add(pair.pair, encode_png(pair.source), "png", encode_png(pair.target), "png")
    return folder


def job(folder: Path, shards: Path, output: Path, **training) -> JobSettings:
    options = dict(output=str(output), steps=6, global_batch_size=8, precision="fp32", log_every=100) | training
    return JobSettings(
        model=ModelSettings(folder=str(folder)),
        data=DataSettings(shards=[str(shards)], sequence_length=512, min_pixels=1024),
        optimizer=OptimizerSettings(learning_rate=1e-3, warmup_steps=2),
        checkpoint=CheckpointSettings(every=3, retry_seconds=0.01),  # a test does not wait for room
        training=TrainingSettings(**options),
    )
