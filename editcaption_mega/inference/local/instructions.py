"""Instructions for the pairs of a set of shards, written by one model in process."""

import hashlib
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import batched
from typing import Any, Protocol

import torch

from editcaption_mega.data.batching.sample import EncodedSample
from editcaption_mega.data.images.patches import ImageSettings, processor_patches
from editcaption_mega.inference.endpoint.answer import Answer, as_instruction, read_answer

from .generator import Generator


@dataclass(frozen=True)
class PairPrompt:
    """A pair as a prompt (the form that `Generator.generate` takes)."""

    input_ids: list[int]
    pixel_values: torch.Tensor
    grid_thw: list[tuple[int, int, int]]


class Prompts(Protocol):
    """Pairs with their prompts, such as a `PairDataset` or a part of one."""

    @property
    def images(self) -> ImageSettings: ...
    def __len__(self) -> int: ...
    def id(self, i: int) -> str: ...
    def prompt(self, i: int) -> EncodedSample: ...


def write_instructions(
    generator: Generator,
    dataset: Prompts,
    *,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    seed: int = 0,
    batch_size: int = 16,
    first: int = 0,
) -> Iterator[dict[str, Any]]:
    """One object per pair in order: id, tokens, finished, and the answer as `answer.read_answer` reads it: status,
    instruction ("" where there is none), reason, thought. Pictures are held for one batch at a time. A pair with a
    picture that cannot be used has the status failed, and the others go on.

    What is drawn for a pair depends on the seed and its id: not on which other pairs there are. first: where to begin;
    at a multiple of batch_size the texts are those that a run from 0 gives, to the rounding of the last bit."""
    for start in range(first, len(dataset), batch_size):
        prompts: dict[int, PairPrompt] = {}
        failed: dict[int, str] = {}
        batch = range(start, min(start + batch_size, len(dataset)))
        for i in batch:
            try:
                prompts[i] = _prompt(dataset.prompt(i), dataset.images)
            except ValueError as error:
                failed[i] = str(error)
        answers = generator.generate(
            list(prompts.values()), max_new_tokens=max_new_tokens, temperature=temperature, seed=seed,
            batch_size=batch_size, numbers=[_number(dataset.id(i)) for i in prompts],
        )  # fmt: skip
        made = dict(zip(prompts, answers, strict=True))
        for i in batch:
            if i in failed:
                answer, tokens, finished = Answer("failed", reason=failed[i]), 0, False
            else:
                answer = as_instruction(read_answer(made[i].text, "stop" if made[i].finished else "length"))
                tokens, finished = made[i].token_count, made[i].finished
            yield {
                "id": dataset.id(i),
                "status": answer.status,
                "instruction": answer.text,
                "reason": answer.reason,
                "thought": answer.thought,
                "tokens": tokens,
                "finished": finished,
            }


def write_missing(
    generator: Generator,
    dataset: Prompts,
    positions: Sequence[int],
    missing: Set[int],
    *,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    batch_size: int,
) -> Iterator[dict[str, Any]]:
    """`write_instructions` for those of `positions` that are missing.

    Batches are of all positions, whatever is missing of them: so the texts do not depend on where a run was killed,
    not even by the rounding of a batch of another size."""
    for batch in batched(positions, batch_size):
        if missing.isdisjoint(batch):
            continue
        wanted = {dataset.id(i) for i in batch if i in missing}
        for record in write_instructions(
            generator, _Subset(dataset, batch), max_new_tokens=max_new_tokens, temperature=temperature, seed=seed,
            batch_size=batch_size,
        ):  # fmt: skip
            if record["id"] in wanted:
                yield record


def record_answer(record: dict[str, Any]) -> Answer:
    """The answer in an object of `write_instructions`."""
    ending = "stop" if record["finished"] else "length"
    return Answer(record["status"], record["instruction"], record["reason"], record["thought"], ending)


class _Subset:
    """Some pairs of a set."""

    def __init__(self, dataset: Prompts, positions: Sequence[int]):
        self._dataset, self._positions, self.images = dataset, positions, dataset.images

    def __len__(self) -> int:
        return len(self._positions)

    def id(self, i: int) -> str:
        return self._dataset.id(self._positions[i])

    def prompt(self, i: int) -> EncodedSample:
        return self._dataset.prompt(self._positions[i])


def _prompt(sample: EncodedSample, settings: ImageSettings) -> PairPrompt:
    pixels = torch.cat([image.load() for image in sample.images])
    return PairPrompt(list(sample.prompt_ids), processor_patches(pixels, settings), list(sample.grids))


def _number(name: str) -> int:
    """An id as a number that no other id is likely to have."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])
