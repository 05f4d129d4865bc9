"""Whole optimizer steps on the same random Qwen3-VL and the same pairs, ours and TRL's DPOTrainer taking turns in one
process. The losses of both are compared step by step, so the work is known to be the same.

`tools/bench.py dpo-step` and, with the proportions of training, `tools/bench.py dpo` are the commands."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from editcaption_mega import platform
from editcaption_mega.conversion import WeightSource, load_weights, local_param_shards, rules_for
from editcaption_mega.data import SampleOrder
from editcaption_mega.data.batching.loader import StepStream
from editcaption_mega.data.images.decode import encode_png
from editcaption_mega.data.shards.reader import ShardWriter
from editcaption_mega.data.synthetic import WorldSettings, render_pair
from editcaption_mega.data.text.prompt import load_tokenizer
from editcaption_mega.kernels import PreferenceLossConfig
from editcaption_mega.model import Architecture, build_model
from editcaption_mega.model.random_folder import SmallModel
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
from editcaption_mega.training.dpo_reference import ResidentReference, StoredReference
from editcaption_mega.training.inputs import reading_ahead
from editcaption_mega.training.log_probs import fingerprint_of, write_log_probs
from editcaption_mega.training.loop import train_step
from editcaption_mega.training.optimizer import build_train_state
from editcaption_mega.training.pair_facts import pair_facts
from editcaption_mega.training.reference_table import read_reference
from editcaption_mega.training.setup import measure_samples, open_dataset, open_reader

from .trl_trainer import BETA, LEARNING_RATE, MICRO_BATCH, run_trl
from .ways import SIZE, Trainer, Way, measure_memory, measure_trainer_memory, scratch_folder, take_turns


@dataclass(frozen=True)
class Case:
    """What is trained on. micro_batch: pairs that TRL takes at once; ours packs rows of `sequence_length` tokens."""

    size: SmallModel
    canvas: int  # pixels of a picture's side
    micro_batch: int
    sequence_length: int
    answer_tokens: int = 0  # of both answers; 0: synthetic instructions as they are
    checkpointing: tuple[bool, ...] = (False, True)  # of TRL's trainers, which are compared one after the other


SMALL = Case(SIZE, canvas=288, micro_batch=MICRO_BATCH, sequence_length=1024)
# Prompts of some 2,100 tokens and Qwen's vocabulary, as in training: what the models do not differ in is large here.
REALISTIC = Case(
    replace(SIZE, vocabulary=151936),
    canvas=1024, micro_batch=1, sequence_length=4096, answer_tokens=100, checkpointing=(False,),
)  # fmt: skip


def measure(case: Case, pairs: int, repeats: int, say: Callable[[str], None]) -> list[dict]:
    """Whole steps over `pairs` pairs -> one record per way. Needs `trl`."""
    with scratch_folder(case.size) as root:
        _write_pairs(root, case, pairs)
        platform.initialize(platform.Layout(), seed=1)
        try:
            # Memory first, each way alone in the process; then time, in turns with TRL.
            ours: dict[Way, Callable[[], OurSteps]] = {}
            for mode in ("stored", "resident"):
                say(f"step: memory with the {mode} reference")
                way, make = Way(f"ours, {mode} reference"), partial(OurSteps, root, case, pairs, mode)
                measure_memory(way, make)
                ours[way] = make
            peers: dict[Way, Trainer] = {}
            for checkpointing in case.checkpointing:
                way = Way("TRL DPOTrainer" + (", gradient checkpointing" if checkpointing else ""))
                options = {"checkpointing": checkpointing, "micro_batch": case.micro_batch}
                peers[way] = partial(run_trl, root, pairs, **options)
                say(f"step: memory of {way.name}")
                measure_trainer_memory(way, peers[way])
            for peer, train in peers.items():
                say(f"step: {1 + repeats} turns of ours and {peer.name}")
                steps = {way: make() for way, make in ours.items()}
                for way, step in steps.items():
                    way.losses.clear()
                    way.tokens = step.tokens
                take_turns(steps, peer, train, repeats)
                del steps
            stored = next(iter(ours))
            return [way.record("step", pairs, stored) for way in (*ours, *peers)]
        finally:
            platform.destroy()


def _write_pairs(root: Path, case: Case, count: int) -> None:
    world = WorldSettings(canvas_size=case.canvas - case.canvas % 3)
    tokenizer = load_tokenizer(root / "model")
    with ShardWriter(root / "pairs") as writer:
        for i in range(count):
            made, other = render_pair(world, 1, i), render_pair(world, 2, i)
            answers = [made.pair.instruction, other.pair.instruction]
            if case.answer_tokens:
                answers = [_as_long(text, case.answer_tokens, tokenizer) for text in answers]
            words = {"chosen": answers[0], "rejected": answers[1], "failure_modes": ["detail"]}
            pair = made.pair.model_copy(update=words)
            source, target = (
                encode_png(image.resize((case.canvas, case.canvas))) for image in (made.source, made.target)
            )
            writer.add(pair, source, "png", target, "png")


def _as_long(text: str, tokens: int, tokenizer) -> str:
    """The text again and again, about so many tokens."""
    ids = tokenizer(" ".join([text] * tokens), add_special_tokens=False)["input_ids"]
    return tokenizer.decode(ids[: tokens - 1])  # its end is one more


class OurSteps:
    """The DPO job's own pieces; each call reads its pairs' pictures anew and does one optimizer step -> loss."""

    def __init__(self, root: Path, case: Case, pairs: int, reference: str):
        folder = root / "model"
        self.settings = settings = DPOSettings(
            model=ModelSettings(folder=str(folder)),
            data=DataSettings(shards=[str(root / "pairs")], sequence_length=case.sequence_length, min_pixels=1024),
            optimizer=OptimizerSettings(learning_rate=LEARNING_RATE, schedule="constant", weight_decay=0.0),
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
            made = StoredReference(read_reference(path, reader, fingerprint, path.with_suffix(".tables")))
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
