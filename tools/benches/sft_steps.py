"""Whole SFT optimizer steps on the same random Qwen3-VL and the same pairs: ours, a plain loop over transformers'
model, and TRL's SFTTrainer, taking turns in one process. Losses are compared step by step, so the work is the same.

`tools/bench.py sft` is the command."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

from editcaption_mega import platform
from editcaption_mega.conversion import load_weights, local_param_shards, rules_for
from editcaption_mega.data import SampleOrder
from editcaption_mega.data.batching.loader import StepStream
from editcaption_mega.data.images.decode import decode_image, encode_png
from editcaption_mega.data.shards.reader import ShardWriter, open_shards
from editcaption_mega.data.synthetic import WorldSettings, render_pair
from editcaption_mega.data.text.prompt import load_tokenizer
from editcaption_mega.model import Architecture, build_model
from editcaption_mega.objectives import SFTObjective
from editcaption_mega.settings import (
    AdapterSettings,
    DataSettings,
    JobSettings,
    ModelSettings,
    OptimizerSettings,
    TrainingSettings,
)
from editcaption_mega.training.adapter_state import chosen_adapters, train_adapters_alone
from editcaption_mega.training.loop import train_step
from editcaption_mega.training.optimizer import build_train_state
from editcaption_mega.training.setup import measure_samples, open_dataset, open_reader

from .trl_trainer import LEARNING_RATE, MICRO_BATCH, prompt_text, qwen_processor, run_trl_sft
from .ways import Way, measure_memory, measure_trainer_memory, scratch_folder, take_turns

CANVAS = 288  # pixels: 81 tokens per picture
BETAS = (0.9, 0.95)


def measure(pairs: int, repeats: int, say: Callable[[str], None]) -> list[dict]:
    """Whole steps over `pairs` pairs -> one record per way. Needs `trl`."""
    with scratch_folder() as root:
        write_pairs(root / "pairs", pairs)
        platform.initialize(platform.Layout(), seed=1)
        try:
            ours, loop, trl = Way("ours"), Way("transformers, plain loop"), Way("TRL SFTTrainer")
            makes = {ours: partial(OurSteps, root, pairs), loop: partial(PlainLoop, root, pairs)}
            train = partial(run_trl_sft, root, pairs)
            # Memory first, each way alone in the process; then time, in turns.
            for way, make in makes.items():
                say(f"memory of {way.name}")
                measure_memory(way, make)
            say(f"memory of {trl.name}")
            measure_trainer_memory(trl, train)
            say(f"{1 + repeats} turns")
            steps = {way: make() for way, make in makes.items()}
            take_turns(steps, trl, train, repeats)
            for way, step in steps.items():
                way.tokens = step.tokens
            return [way.record("sft", pairs, ours) for way in (ours, loop, trl)]
        finally:
            platform.destroy()


def write_pairs(folder: Path, count: int) -> None:
    """Shards of `count` pairs of small pictures."""
    world = WorldSettings(canvas_size=CANVAS)
    with ShardWriter(folder) as writer:
        for i in range(count):
            made = render_pair(world, 1, i)
            writer.add(made.pair, encode_png(made.source), "png", encode_png(made.target), "png")


class OurSteps:
    """The SFT job's own pieces; each call reads its pairs' pictures anew and does one optimizer step -> loss."""

    def __init__(self, root: Path, pairs: int, adapters: AdapterSettings | None = None):
        """adapters: to be trained alone."""
        self.settings = settings = JobSettings(
            model=ModelSettings(folder=str(root / "model"), adapters=adapters or AdapterSettings()),
            data=DataSettings(shards=[str(root / "pairs")], sequence_length=1024, min_pixels=1024, shuffle=False),
            optimizer=OptimizerSettings(learning_rate=LEARNING_RATE, schedule="constant", weight_decay=0.0),
            training=TrainingSettings(output="-", precision="fp32", global_batch_size=pairs),
        )
        architecture = Architecture.from_folder(settings.model.folder)
        dataset = open_dataset(settings, "caption")
        lengths = measure_samples(dataset, settings.data.sequence_length)
        reader = open_reader(settings, dataset, lengths, architecture)
        self.stream = StepStream(reader, SampleOrder(pairs, 0, shuffle=False), pairs)
        self.number = 0
        self.tokens = int(lengths.num_tokens.sum())
        choice, seed = chosen_adapters(settings, architecture), settings.training.seed
        plan = choice.plan(seed) if choice else None
        chunks = build_model(architecture, settings.model, settings.parallel, "fp32", plan)
        load_weights(chunks, architecture, Path(settings.model.folder))
        if choice:
            self.shards = train_adapters_alone(chunks, choice, seed=seed, checkpoint=None)
        else:
            self.shards = local_param_shards(chunks, rules_for(architecture))
        self.state = build_train_state(chunks, self.shards, settings.optimizer, precision="fp32", total_steps=10**6)
        for chunk in self.state.chunks:
            chunk.train()

    def __call__(self) -> float:
        (step,) = self.stream.steps(self.number, self.number + 1)
        self.number += 1
        return train_step(self.state, SFTObjective(), step)["loss"]


class PlainLoop:
    """What one writes with transformers alone: its processor, its model, padded batches, AdamW -> loss of the step."""

    def __init__(self, root: Path, pairs: int):
        from transformers import AutoModelForImageTextToText

        self.folder, self.pairs = root / "model", pairs
        self.shards = open_shards([str(root / "pairs")])
        self.processor = qwen_processor(self.folder)
        self.prompt = prompt_text(self.folder)
        self.model = AutoModelForImageTextToText.from_pretrained(self.folder, dtype=torch.float32)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=LEARNING_RATE, betas=BETAS, weight_decay=0.0)
        self.tokens = 0

    def __call__(self) -> float:
        count = sum(len(self._answer_ids(i)) for i in range(self.pairs))
        self.optimizer.zero_grad()
        total, self.tokens = 0.0, 0
        for first in range(0, self.pairs, MICRO_BATCH):
            inputs, labels = self._batch(range(first, first + MICRO_BATCH))
            self.tokens += labels.numel()
            logits = self.model(**inputs).logits[:, :-1]
            loss = F.cross_entropy(logits.flatten(0, 1).float(), labels[:, 1:].flatten(), reduction="sum") / count
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return total

    def _answer_ids(self, i: int) -> list[int]:
        text = self.shards[i].pair.instruction + "<|im_end|>"
        return load_tokenizer(self.folder)(text, add_special_tokens=False)["input_ids"]

    def _batch(self, indices: range):
        samples = [self.shards[i] for i in indices]
        pictures = [
            [decode_image(data, where=sample.pair.id) for data in (sample.source_bytes, sample.target_bytes)]
            for sample in samples
        ]
        texts = [self.prompt + sample.pair.instruction + "<|im_end|>" for sample in samples]
        inputs = self.processor(images=pictures, text=texts, padding=True, padding_side="right", return_tensors="pt")
        labels = torch.full_like(inputs["input_ids"], -100)
        for row, i in enumerate(indices):
            end = int(inputs["attention_mask"][row].sum())
            answer = len(self._answer_ids(i))
            labels[row, end - answer : end] = inputs["input_ids"][row, end - answer : end]
        return inputs, labels
