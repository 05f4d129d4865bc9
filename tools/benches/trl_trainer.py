"""TRL's DPOTrainer and SFTTrainer on the model and the pairs that ours have."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from editcaption_mega.data.shards.reader import open_shards
from editcaption_mega.data.text.prompt import Prompt, load_tokenizer

from .ways import Way

LEARNING_RATE, BETA = 1e-4, 0.1
MICRO_BATCH = 4  # pairs that TRL takes at once


def run_trl(
    root: Path,
    pairs: int,
    steps: int,
    way: Way,
    between: Callable[[], None],
    *,
    checkpointing: bool = False,
    micro_batch: int = MICRO_BATCH,
) -> None:
    """`steps` optimizer steps of TRL's trainer into `way`; `between` is called after each, outside its time."""
    from transformers import AutoModelForImageTextToText
    from trl import DPOConfig, DPOTrainer

    folder = root / "model"
    answers = {"chosen": lambda pair: pair.chosen, "rejected": lambda pair: pair.rejected}
    trainer = DPOTrainer(
        model=AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32),
        args=DPOConfig(**_options(root, pairs, steps, micro_batch), beta=BETA, gradient_checkpointing=checkpointing),
        train_dataset=_rows(root, pairs, answers),
        processing_class=qwen_processor(folder),
        callbacks=[_clock(way, between)],
    )
    trainer.train()


def run_trl_sft(root: Path, pairs: int, steps: int, way: Way, between: Callable[[], None]) -> None:
    """As `run_trl`, of SFT on the pairs' instructions, each step on all of them in their order."""
    from transformers import AutoModelForImageTextToText
    from trl import SFTConfig, SFTTrainer

    folder = root / "model"
    trainer = SFTTrainer(
        model=AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32),
        args=SFTConfig(**_options(root, pairs, steps), completion_only_loss=True, gradient_checkpointing=False),
        train_dataset=_rows(root, pairs, {"completion": lambda pair: pair.instruction}),
        processing_class=qwen_processor(folder),
        callbacks=[_clock(way, between)],
    )
    trainer.train()


def _options(root: Path, pairs: int, steps: int, micro_batch: int = MICRO_BATCH) -> dict[str, Any]:
    """As long as they are by which both do the same work."""
    return dict(
        output_dir=str(root / "trl"), max_steps=steps, per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=pairs // micro_batch, learning_rate=LEARNING_RATE, lr_scheduler_type="constant",
        weight_decay=0.0, max_grad_norm=1.0, adam_beta2=0.95, use_cpu=True, bf16=False, max_length=None,
        save_strategy="no", report_to="none", logging_steps=1, disable_tqdm=True, remove_unused_columns=False,
    )  # fmt: skip


def _rows(root: Path, pairs: int, answers: dict[str, Callable[[Any], str]]):
    """The pairs as a data set of pictures, prompt and answers. answers: column -> what of a pair it holds."""
    from datasets import Dataset, Features, Sequence, Value
    from datasets import Image as Picture

    shards, prompt = open_shards([str(root / "pairs")]), prompt_text(root / "model")
    rows = []
    for i in range(pairs):
        sample = shards[i]
        texts = {column: text_of(sample.pair) + "<|im_end|>" for column, text_of in answers.items()}
        rows.append(
            {"images": [{"bytes": sample.source_bytes}, {"bytes": sample.target_bytes}], "prompt": prompt, **texts}
        )
    text = Value("string")
    features = Features({"images": Sequence(Picture()), "prompt": text, **dict.fromkeys(answers, text)})
    return Dataset.from_list(rows, features=features)


def _clock(way: Way, between: Callable[[], None]):
    """A callback that writes each step's time and loss into `way`, and calls `between` outside of it."""
    from transformers import TrainerCallback

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

    return Clock()


def qwen_processor(folder: Path):
    """transformers' processor of a folder without a processor_config.json."""
    from transformers import AutoImageProcessor, Qwen3VLProcessor, Qwen3VLVideoProcessor

    tokenizer, images = load_tokenizer(folder), AutoImageProcessor.from_pretrained(folder)
    return Qwen3VLProcessor(images, tokenizer, Qwen3VLVideoProcessor(), chat_template=tokenizer.chat_template)


def prompt_text(folder: Path) -> str:
    """The prompt as one string, one image token per picture: what TRL's processor expands."""
    return load_tokenizer(folder).apply_chat_template(
        Prompt.load().messages(), tokenize=False, add_generation_prompt=True
    )
