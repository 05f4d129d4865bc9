"""Instructions for the pairs of a set of shards, written by one model in process."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from editcaption_mega.data.stream import PairDataset

from .generate import Generator


@dataclass(frozen=True)
class PairPrompt:
    """A pair as a prompt (the form that `Generator.generate` takes)."""

    input_ids: list[int]
    pixel_values: torch.Tensor
    grid_thw: list[tuple[int, int, int]]


def write_instructions(
    generator: Generator,
    dataset: PairDataset,
    *,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    seed: int = 0,
    batch_size: int = 16,
    first: int = 0,
) -> Iterator[dict]:
    """One object per pair in order: id, instruction, tokens, finished. Pictures are held for one batch at a time.

    first: where to begin; at a multiple of batch_size the texts are those that a run from 0 gives."""
    for start in range(first, len(dataset), batch_size):
        samples = [dataset.prompt(i) for i in range(start, min(start + batch_size, len(dataset)))]
        prompts = [
            PairPrompt(
                list(sample.prompt_ids),
                torch.cat([sample.patches(k) for k in range(len(sample.grids))]),
                list(sample.grids),
            )
            for sample in samples
        ]
        answers = generator.generate(
            prompts, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed + start, batch_size=batch_size
        )
        for sample, answer in zip(samples, answers, strict=True):
            yield {
                "id": sample.id,
                "instruction": answer.text.strip(),
                "tokens": answer.token_count,
                "finished": answer.finished,
            }
