"""TRL's DPOTrainer on the model and the pairs that ours has."""

import time
from collections.abc import Callable
from pathlib import Path

import torch

from editcaption_mega.data.shards.reader import open_shards
from editcaption_mega.data.text.prompt import Prompt, load_tokenizer

from .dpo import Way

LEARNING_RATE, BETA = 1e-4, 0.1
MICRO_BATCH = 4  # pairs that TRL takes at once


def run_trl(root: Path, pairs: int, steps: int, checkpointing: bool, way: Way, between: Callable[[], None]) -> None:
    """`steps` optimizer steps of TRL's trainer into `way`; `between` is called after each, outside its time.

    As long as the options are by which both do the same work."""
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
    return load_tokenizer(folder).apply_chat_template(
        Prompt.load().messages(), tokenize=False, add_generation_prompt=True
    )
