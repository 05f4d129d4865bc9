"""A DPO step against what others would do with the same pairs; tools/bench.py is the command.

rows: one shared-prompt row against the same pairs as two plain packed sequences, forward and backward, taking turns.
step: whole optimizer steps on the same random Qwen3-VL and the same pairs, ours and TRL's DPOTrainer taking turns in
one process. The losses of both are compared step by step, so the work is known to be the same.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from bench_kernels import _peak, _reset_peak

from editcaption_mega import platform
from editcaption_mega.conversion import WeightSource, load_weights, local_param_shards, rules_for
from editcaption_mega.data import SampleOrder
from editcaption_mega.data.batching.loader import StepStream
from editcaption_mega.data.batching.packing import Packer
from editcaption_mega.data.batching.sample import EncodedSample
from editcaption_mega.data.images.decode import encode_png
from editcaption_mega.data.images.patches import Grid, ImageSettings
from editcaption_mega.data.shards.reader import ShardWriter
from editcaption_mega.data.synthetic import WorldSettings, corpus_texts, render_pair
from editcaption_mega.kernels import PreferenceLossConfig
from editcaption_mega.model import Architecture, build_model
from editcaption_mega.model.random_folder import SmallModel, train_tokenizer, write_random_folder
from editcaption_mega.objectives import DPOObjective
from editcaption_mega.settings import (
    DataSettings,
    DPOSettings,
    ModelSettings,
    OptimizerSettings,
    ParallelSettings,
    PreferenceSettings,
    ReferenceSettings,
    TrainingSettings,
)
from editcaption_mega.training.dpo import pair_facts
from editcaption_mega.training.dpo_reference import ResidentReference, StoredReference, read_reference
from editcaption_mega.training.log_probs import fingerprint_of, write_log_probs
from editcaption_mega.training.loop import train_step
from editcaption_mega.training.optimizer import build_train_state
from editcaption_mega.training.setup import measure_samples, open_dataset, open_reader

BETA, LEARNING_RATE = 0.1, 1e-4
CANVAS = 288  # pixels: 81 tokens per picture
MICRO_BATCH = 4  # pairs that TRL takes at once
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


# ---- rows ------------------------------------------------------------------------------------------------------------


def measure_rows(prompt: int, response: int, repeats: int, say: Callable[[str], None]) -> list[dict]:
    """Forward and backward of one pair, its prompt once or twice -> one record per way."""
    with scratch_folder() as root:
        platform.initialize(platform.Layout(), seed=1)
        try:
            architecture = Architecture.from_folder(root / "model")
            (model,) = build_model(architecture, ModelSettings(folder=str(root / "model")), ParallelSettings(), "fp32")
            load_weights([model], architecture, root / "model")
            pair = _random_pair(architecture, prompt, response)
            batches = {
                Way("shared prompt"): _row([pair], architecture, root / "model"),
                Way("two plain sequences"): _row([replace(pair, shared_prompt=False)], architecture, root / "model"),
            }
            for turn in range(1 + repeats):  # the first turn warms up
                say(f"rows: turn {turn} of {repeats}")
                for way, batch in batches.items():
                    model.zero_grad()
                    before = _reset_peak(torch.device("cpu"))
                    began = time.perf_counter()
                    loss = -model(batch).sum()
                    loss.backward()
                    if turn:
                        way.times.append(time.perf_counter() - began)
                    way.peak_bytes = max(way.peak_bytes, _peak(torch.device("cpu")) - before)
                    way.tokens = batch.num_tokens
                    way.losses.append(loss.item())
            ours = next(iter(batches))
            return [way.record("rows", 1, ours) for way in batches]
        finally:
            platform.destroy()


@dataclass(frozen=True)
class ImageInMemory:
    """A picture of a sample that is in no shard."""

    grid: Grid
    patches: torch.Tensor

    def load(self) -> torch.Tensor:
        return self.patches


def _random_pair(architecture: Architecture, prompt: int, response: int) -> EncodedSample:
    """Two pictures fill nearly the whole prompt, as in training."""
    generator = torch.Generator().manual_seed(0)
    side = 2 * int((0.48 * prompt) ** 0.5)
    grids = ((1, side, side), (1, side, side))
    vision = architecture.vision
    values = 3 * 2 * vision.patch_size**2
    patches = [torch.randn(side * side, values, generator=generator) for _ in grids]

    def tokens(count: int) -> list[int]:
        return torch.randint(10, 600, (count,), generator=generator).tolist()

    ids = tokens(4)
    for grid in grids:
        ids += [architecture.image_token_id] * (grid[1] * grid[2] // 4) + tokens(4)
    ids += tokens(prompt - len(ids))
    answers = (tuple(tokens(response)), tuple(tokens(response)))
    return EncodedSample("pair", tuple(ids), answers, tuple(map(ImageInMemory, grids, patches)))


def _row(pairs: list[EncodedSample], architecture: Architecture, folder: Path):
    images = ImageSettings.from_folder(folder, min_pixels=1024, max_pixels=1 << 24)
    length = sum(pair.num_tokens for pair in pairs)
    packer = Packer(images, architecture.image_token_id, 0, architecture.vision.num_grid_per_side, length)
    return packer.collate(pairs, length)


# ---- step ------------------------------------------------------------------------------------------------------------


def measure_step(pairs: int, repeats: int, say: Callable[[str], None]) -> list[dict]:
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
                before = _reset_peak(torch.device("cpu"))
                step = OurSteps(root, pairs, mode)
                step(), step()
                way.peak_bytes = _peak(torch.device("cpu")) - before
                way.tokens = step.tokens
                ways.append(way)
                del step
            for checkpointing in (False, True):
                name = "TRL DPOTrainer" + (", gradient checkpointing" if checkpointing else "")
                say(f"step: memory of {name}")
                way = Way(name)
                before = _reset_peak(torch.device("cpu"))
                _run_trl(root, pairs, 2, checkpointing, way, between=lambda: None)
                way.peak_bytes = _peak(torch.device("cpu")) - before
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

                _run_trl(root, pairs, 1 + repeats, checkpointing=peer is peers[1], way=peer, between=between)
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
            write_log_probs(chunks, reader, path, fingerprint)
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


def _run_trl(root: Path, pairs: int, steps: int, checkpointing: bool, way: Way, between: Callable[[], None]) -> None:
    """`steps` optimizer steps of TRL's trainer into `way`; `between` is called after each, outside its time."""
    from datasets import Dataset, Features, Sequence, Value
    from datasets import Image as Picture
    from transformers import (
        AutoImageProcessor,
        AutoModelForImageTextToText,
        Qwen3VLProcessor,
        Qwen3VLVideoProcessor,
        TrainerCallback,
    )
    from trl import DPOConfig, DPOTrainer

    from editcaption_mega.data.shards.reader import open_shards
    from editcaption_mega.data.text.prompt import load_tokenizer

    folder = root / "model"
    tokenizer = load_tokenizer(folder)
    images = AutoImageProcessor.from_pretrained(folder)
    processor = Qwen3VLProcessor(images, tokenizer, Qwen3VLVideoProcessor(), chat_template=tokenizer.chat_template)
    rows = []
    shards = open_shards([str(root / "pairs")])
    for i in range(pairs):
        sample = shards[i]
        rows.append(
            {
                "images": [{"bytes": sample.source_bytes}, {"bytes": sample.target_bytes}],
                "prompt": prompt_text(folder),
                "chosen": sample.pair.chosen + "<|im_end|>",
                "rejected": sample.pair.rejected + "<|im_end|>",
            }
        )
    text = Value("string")
    features = Features({"images": Sequence(Picture()), "prompt": text, "chosen": text, "rejected": text})

    class Clock(TrainerCallback):
        def on_train_begin(self, *_, **__):
            self.began = time.perf_counter()

        def on_step_end(self, *_, **__):
            way.times.append(time.perf_counter() - self.began)
            between()
            self.began = time.perf_counter()

        def on_log(self, arguments, state, control, logs=None, **_):
            if "loss" in logs:
                way.losses.append(logs["loss"])

    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    trainer = DPOTrainer(
        model=model,
        args=DPOConfig(
            output_dir=str(root / "trl"), max_steps=steps, per_device_train_batch_size=MICRO_BATCH,
            gradient_accumulation_steps=pairs // MICRO_BATCH, learning_rate=LEARNING_RATE, beta=BETA,
            lr_scheduler_type="constant", weight_decay=0.0, max_grad_norm=1.0, adam_beta2=0.95,
            gradient_checkpointing=checkpointing, use_cpu=True, bf16=False, max_length=None, save_strategy="no",
            report_to="none", logging_steps=1, disable_tqdm=True, remove_unused_columns=False,
        ),
        train_dataset=Dataset.from_list(rows, features=features),
        processing_class=processor,
        callbacks=[Clock()],
    )  # fmt: skip
    trainer.train()


def prompt_text(folder: Path) -> str:
    """The prompt as one string, one image token per picture: what TRL's processor expands."""
    from editcaption_mega.data.text.prompt import Prompt, load_tokenizer

    return load_tokenizer(folder).apply_chat_template(
        Prompt.load().messages(), tokenize=False, add_generation_prompt=True
    )


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
