"""Instructions for the pairs of a set of shards, written by one model in process."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from editcaption_mega.data.stream import PairDataset

from .answer import read_answer
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
    """One object per pair in order: id, tokens, finished, and the answer as `answer.read_answer` reads it: status,
    instruction ("" where there is none), reason, thought. Pictures are held for one batch at a time.

    What is drawn for a pair depends on the seed and its id: not on which other pairs there are. first: where to begin;
    at a multiple of batch_size the texts are those that a run from 0 gives, to the rounding of the last bit."""
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
            prompts, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed, batch_size=batch_size,
            numbers=[_number(sample.id) for sample in samples],
        )  # fmt: skip
        for sample, made in zip(samples, answers, strict=True):
            answer = read_answer(made.text, "stop" if made.finished else "length")
            yield {
                "id": sample.id,
                "status": answer.status,
                "instruction": answer.text,
                "reason": answer.reason,
                "thought": answer.thought,
                "tokens": made.token_count,
                "finished": made.finished,
            }


def _number(name: str) -> int:
    """An id as a number that no other id is likely to have."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])
