"""What the model writes for a few held-out pairs at each evaluation of a job, with the weights that train."""

import dataclasses
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from editcaption_mega import platform
from editcaption_mega.data.batching.dataset import PairDataset
from editcaption_mega.data.batching.loader import SequenceReader
from editcaption_mega.data.batching.sample import EncodedSample
from editcaption_mega.data.images.patches import Grid
from editcaption_mega.settings import SampleSettings

from ..metrics import RunLog
from ..sampled_pairs import sampled_numbers
from .greedy import greedy_answers
from .sample_log import SampledPair, SampledText, SampleLog


@dataclasses.dataclass(frozen=True)
class HeldPicture:
    """A picture that is in memory (`data.batching.sample.UnreadImage`)."""

    grid: Grid
    patches: Tensor

    def load(self) -> Tensor:
        return self.patches


class Sampling:
    """An `evaluations.Evaluation` that writes the likeliest texts for a few pairs.

    The data's own answers are the first guesses that `greedy_answers` gets, the texts of an evaluation those of the
    next: one pass finds a text that stays what it was. Vision features are computed again in each pass."""

    log: SampleLog | None = None  # of rank 0

    def __init__(
        self,
        chunks: list[torch.nn.Module],
        held_out: SequenceReader[PairDataset],
        settings: SampleSettings,
        ends: Collection[int],
    ):
        """held_out: this rank's reader of the held-out pairs. ends: tokens that end an answer, beside the trained one.

        Collective; raises ValueError, alike on every rank, for a picture that cannot be read."""
        dataset = held_out.dataset
        self.chunks, self.packer, self.settings, self.encoder = chunks, held_out.packer, settings, dataset.encoder
        self.ends = {*ends, dataset.encoder.end_token_id, dataset.encoder.tokenizer.eos_token_id} - {None}
        numbers = sampled_numbers(len(dataset), settings)
        with platform.together():  # only the first stage reads pictures
            self.prompts = [_held(dataset.prompt(i), self.packer.share.with_images) for i in numbers]
            self.guesses = [list(dataset.sample(i).answers[0]) for i in numbers]
            self.pairs = [SampledPair(dataset.id(i), _reference(dataset, i), i) for i in numbers]

    def __call__(self, step: int) -> dict[str, float]:
        """Collective."""
        began = time.monotonic()
        answers, passes = greedy_answers(
            self.chunks, self.packer, self.prompts,
            ends=self.ends, max_new_tokens=self.settings.max_new_tokens, guesses=self.guesses,
        )  # fmt: skip
        self.guesses = answers
        seconds = time.monotonic() - began
        with platform.together():
            if self.log:
                self.log.write(step, [self._text(tokens) for tokens in answers], passes, seconds)
        return {"samples/passes": passes, "samples/seconds": seconds}

    def _text(self, tokens: list[int]) -> SampledText:
        finished = tokens[-1] in self.ends
        answer = tokens[:-1] if finished else tokens
        text = self.encoder.tokenizer.decode(answer, skip_special_tokens=True).strip()
        return SampledText(text, len(answer), finished)


@contextmanager
def sampling(
    chunks: list[torch.nn.Module],
    held_out: SequenceReader[PairDataset],
    settings: SampleSettings,
    ends: Collection[int],
    log: RunLog | None,
    first_step: int,
) -> Iterator[Sampling]:
    """The sampling of a job that goes on after `first_step`, with its records for as long as the block runs.

    log: that of the run, on rank 0. Collective; raises as `Sampling` and `SampleLog`, alike on every rank."""
    made = Sampling(chunks, held_out, settings, ends)
    with platform.together():
        if log is not None:
            shards = held_out.dataset.shards
            made.log = SampleLog(
                log.output, shards, made.pairs, first_step=first_step, loggers=log.loggers, say=log.say
            )
    try:
        yield made
    finally:
        if made.log is not None:
            made.log.close()


def _held(prompt: EncodedSample, with_images: bool) -> EncodedSample:
    """The prompt with its pictures in memory, on ranks that need them."""
    if not with_images:
        return prompt
    return dataclasses.replace(prompt, images=tuple(HeldPicture(image.grid, image.load()) for image in prompt.images))


def _reference(dataset: PairDataset, i: int) -> str:
    """What the first answer of a sample is as text."""
    pair = dataset.shards.pair(i)
    return (pair.chosen if dataset.answers == "preference" else pair.instruction) or ""
