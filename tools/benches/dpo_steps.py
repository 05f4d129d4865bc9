"""Whole optimizer steps on the same random Qwen3-VL and the same pairs, ours and TRL's DPOTrainer taking turns in one
process. The losses of both are compared step by step, so the work is known to be the same.

`tools/bench.py dpo-step` is the command."""

import time
from collections.abc import Callable
from pathlib import Path

import torch

from editcaption_mega import platform
from editcaption_mega.conversion import WeightSource, load_weights, local_param_shards, rules_for
from editcaption_mega.data import SampleOrder
from editcaption_mega.data.batching.loader import StepStream
from editcaption_mega.data.images.decode import encode_png
from editcaption_mega.data.shards.reader import ShardWriter
from editcaption_mega.data.synthetic import WorldSettings, render_pair
from editcaption_mega.kernels import PreferenceLossConfig
from editcaption_mega.model import Architecture, build_model
from editcaption_mega.objectives import DPOObjective
from editcaption_mega.settings import (
    DataSettings,
    DPOSettings,
    ModelSettings,
    OptimizerSettings,
    PreferenceSettings,
    ReferenceSettings,
    TrainingSettings,
)
from editcaption_mega.training.dpo import pair_facts
from editcaption_mega.training.dpo_reference import ResidentReference, StoredReference, read_reference
from editcaption_mega.training.inputs import reading_ahead
from editcaption_mega.training.log_probs import fingerprint_of, write_log_probs
from editcaption_mega.training.loop import train_step
from editcaption_mega.training.optimizer import build_train_state
from editcaption_mega.training.setup import measure_samples, open_dataset, open_reader

from .dpo import Way, scratch_folder
from .measuring import peak, reset_peak
from .trl_trainer import BETA, LEARNING_RATE, run_trl

CANVAS = 288  # pixels: 81 tokens per picture
CPU = torch.device("cpu")


def measure(pairs: int, repeats: int, say: Callable[[str], None]) -> list[dict]:
    """Whole steps over `pairs` pairs -> one record per way. Needs `trl`."""
    with scratch_folder() as root:
        _write_pairs(root / "pairs", pairs)
        platform.initialize(platform.Layout(), seed=1)
        try:
            ways: list[Way] = []
            # Memory first, each way alone in the process; then time, in turns with TRL.
            for mode in ("stored", "resident"):
                say(f"step: memory with the {mode} reference")
                way = Way(f"ours, {mode} reference")
                before = reset_peak(CPU)
                step = OurSteps(root, pairs, mode)
                step(), step()
                way.peak_bytes = peak(CPU) - before
                way.tokens = step.tokens
                ways.append(way)
                del step
            for checkpointing in (False, True):
                name = "TRL DPOTrainer" + (", gradient checkpointing" if checkpointing else "")
                say(f"step: memory of {name}")
                way = Way(name)
                before = reset_peak(CPU)
                run_trl(root, pairs, 2, checkpointing, way, between=lambda: None)
                way.peak_bytes = peak(CPU) - before
                way.losses.clear(), way.times.clear()
                ways.append(way)
            stored, resident, *peers = ways
            for peer in peers:
                say(f"step: {1 + repeats} turns of ours and {peer.name}")
                ours = [
                    (way, OurSteps(root, pairs, mode)) for way, mode in ((stored, "stored"), (resident, "resident"))
                ]
                for way, _ in ours:
                    way.losses.clear()

                def between(ours=ours):
                    for way, step in ours:
                        began = time.perf_counter()
                        way.losses.append(step())
                        way.times.append(time.perf_counter() - began)

                run_trl(root, pairs, 1 + repeats, checkpointing=peer is peers[1], way=peer, between=between)
                for way in (stored, resident, peer):
                    del way.times[-(1 + repeats)]  # the first turn warms up
            return [way.record("step", pairs, stored) for way in ways]
        finally:
            platform.destroy()


def _write_pairs(folder: Path, count: int) -> None:
    world = WorldSettings(canvas_size=CANVAS)
    with ShardWriter(folder) as writer:
        for i in range(count):
            made, other = render_pair(world, 1, i), render_pair(world, 2, i)
            words = {"chosen": made.pair.instruction, "rejected": other.pair.instruction, "failure_modes": ["detail"]}
            pair = made.pair.model_copy(update=words)
            writer.add(pair, encode_png(made.source), "png", encode_png(made.target), "png")


class OurSteps:
    """The DPO job's own pieces; each call reads its pairs' pictures anew and does one optimizer step -> loss."""

    def __init__(self, root: Path, pairs: int, reference: str):
        folder = root / "model"
        self.settings = settings = DPOSettings(
            model=ModelSettings(folder=str(folder)),
            data=DataSettings(shards=[str(root / "pairs")], sequence_length=1024, min_pixels=1024),
            optimizer=OptimizerSettings(
                learning_rate=LEARNING_RATE, min_learning_rate=LEARNING_RATE, warmup_steps=0, weight_decay=0.0
            ),
            training=TrainingSettings(output="-", precision="fp32", global_batch_size=pairs),
            preference=PreferenceSettings(beta=BETA),
            reference=ReferenceSettings(mode=reference),
        )
        architecture = Architecture.from_folder(folder)
        dataset = open_dataset(settings, "preference")
        lengths = measure_samples(dataset, settings.data.sequence_length)
        reader = open_reader(settings, dataset, lengths, architecture)
        self.stream = StepStream(reader, SampleOrder(pairs, 0), pairs)
        self.number = 0
        self.tokens = int(lengths.num_tokens[self.stream.samples(0)].sum())
        chunks = self._model(architecture)
        if reference == "stored":
            path = root / f"reference-{time.monotonic_ns()}.jsonl"
            fingerprint = fingerprint_of(WeightSource(folder, None), dataset, "fp32")
            write_log_probs(chunks, reader, path, fingerprint, reading_ahead(settings.data))
            made = StoredReference(read_reference(path, reader, fingerprint))
        else:
            made = ResidentReference(self._model(architecture))
        shards = local_param_shards(chunks, rules_for(architecture))
        self.trainer = build_train_state(chunks, shards, settings.optimizer, precision="fp32", total_steps=10**6)
        facts = pair_facts(dataset, settings.preference)
        self.objective = DPOObjective(PreferenceLossConfig("sigmoid", BETA), made, facts, per_mode=False)
        for chunk in self.trainer.chunks:
            chunk.train()

    def _model(self, architecture: Architecture) -> list:
        settings = self.settings
        chunks = build_model(architecture, settings.model, settings.parallel, "fp32")
        load_weights(chunks, architecture, Path(settings.model.folder))
        return chunks

    def __call__(self) -> float:
        (step,) = self.stream.steps(self.number, self.number + 1)
        self.number += 1
        return train_step(self.trainer, self.objective, step)["loss"]
