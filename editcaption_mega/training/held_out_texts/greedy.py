"""The likeliest texts for a few prompts under the weights that a job trains, on its ranks and in its layout.

Nothing is exported and no keys are kept: each pass computes whole rows, as the forward pass of a step does. In one pass
causal attention gives the likeliest token behind every token of a text, so a pass takes a guess at the text and keeps
what the model itself would have written, and the token behind it: speculative decoding (Leviathan et al., arXiv
2211.17192) with a guess in place of a second model. Where the guess ends, passes go on from what they said themselves
(Jacobi decoding: Santilli et al., arXiv 2305.10427). Whatever the guesses, the texts are those of one pass per token.
"""

import dataclasses
from collections.abc import Collection, Iterator, Sequence
from itertools import cycle, islice, pairwise
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from editcaption_mega import phases, platform
from editcaption_mega.data.batching.batch import PackedBatch
from editcaption_mega.data.batching.packing import Packer
from editcaption_mega.data.batching.sample import EncodedSample
from editcaption_mega.kernels import linear_log_probs

from ..pipeline import run_pipeline
from ..sampled_pairs import check_room


class Greedy(NamedTuple):
    """answers: the tokens behind each prompt, with the one that ends them if it came. passes: taken for them."""

    answers: list[list[int]]
    passes: int


@dataclasses.dataclass
class _Answer:
    """The answer to a prompt while it is written. guess: what may follow `tokens`, which are the model's own."""

    tokens: list[int]
    guess: list[int]
    complete: bool = False

    @property
    def candidate(self) -> tuple[int, ...]:
        return (*self.tokens, *self.guess)

    def take(self, likeliest: Sequence[int], ends: Collection[int], max_new_tokens: int) -> None:
        """likeliest: the model's token at each place of the candidate, and behind it."""
        candidate = self.candidate
        for place in range(len(self.tokens), len(likeliest)):
            self.tokens.append(likeliest[place])
            if likeliest[place] in ends or len(self.tokens) == max_new_tokens:
                self.complete = True
                return
            if place == len(candidate) or likeliest[place] != candidate[place]:
                break
        self.guess = list(likeliest[len(self.tokens) : max_new_tokens - 1])


def greedy_answers(
    chunks: list[torch.nn.Module],
    packer: Packer,
    prompts: Sequence[EncodedSample],
    *,
    ends: Collection[int],
    max_new_tokens: int,
    guesses: Sequence[Sequence[int]] | None = None,
) -> Greedy:
    """The likeliest tokens behind each prompt, to the first of `ends`, max_new_tokens at most. On every rank.

    packer: of this rank. guesses: what the answers may be, each to save passes. The chunks are in evaluation mode, and
    gradients are off. Collective; raises ValueError, alike on every rank, for a prompt whose answer has no room."""
    check_room(prompts, packer.sequence_length, max_new_tokens)
    packer = dataclasses.replace(packer, packing=True)  # any number of prompts can be divided among the ranks
    answers = [_Answer([], list(guess[: max_new_tokens - 1])) for guess in guesses or [()] * len(prompts)]
    passes = 0
    while unfinished := [k for k, answer in enumerate(answers) if not answer.complete]:
        phases.enter(phases.SCORING)
        candidates = [_with_answer(prompts[k], answers[k].candidate, packer.pad_token_id) for k in unfinished]
        likeliest = _likeliest_tokens(chunks, packer, candidates, max_new_tokens)
        for k, tokens in zip(unfinished, likeliest, strict=True):
            answers[k].take(tokens, ends, max_new_tokens)
        passes += 1
    return Greedy([answer.tokens for answer in answers], passes)


def _with_answer(prompt: EncodedSample, candidate: tuple[int, ...], pad_token_id: int) -> EncodedSample:
    """The prompt with its candidate as an answer to be scored; behind it stands any token, in the place of the next."""
    return dataclasses.replace(prompt, answers=((*candidate, pad_token_id),))


def _likeliest_tokens(
    chunks: list[torch.nn.Module], packer: Packer, samples: Sequence[EncodedSample], most: int
) -> list[list[int]]:
    """One pass -> the model's likeliest token at each place of each sample's answer, on every rank. Collective.

    most: tokens of any answer."""
    share = packer.share
    rows = share.data_parallel_size * share.sequence_multiple
    # Each fits into a row, and where each has its own the rows must divide among the ranks: some are computed twice.
    places = list(islice(cycle(range(len(samples))), -(-len(samples) // rows) * rows))
    plan = packer.plan([samples[place].num_tokens for place in places])
    own = [[places[k] for k in sequence] for sequence in plan.sequences]
    device = platform.device()
    batches = [packer.collate([samples[k] for k in row], plan.length).to(device) for row in own]
    likeliest: list[Tensor] = []

    def keep(tokens: Tensor) -> tuple[Tensor, dict[str, Any]]:
        likeliest.append(tokens)
        return torch.zeros((), device=device), {}  # in the place of a loss

    def forward(data: Iterator[PackedBatch], model: torch.nn.Module) -> tuple[Any, Any]:
        return model(next(data), _likeliest), keep

    run_pipeline(forward, chunks, batches, plan.length, forward_only=True)
    # Only the last stage has tokens; of two ranks that computed the same sample, and round differently, the larger id.
    shared = torch.full((len(samples), most), -1, dtype=torch.int64, device=device)
    for row, batch, tokens in zip(own, batches, likeliest, strict=False):
        for k, (first, last) in zip(row, pairwise(batch.response_bounds), strict=True):
            shared[k, : last - first] = tokens[first:last]
    if dist.get_world_size() > 1:
        dist.all_reduce(shared, op=dist.ReduceOp.MAX)
    lengths = [len(sample.answer_ids) for sample in samples]
    return [tokens[:length] for tokens, length in zip(shared.tolist(), lengths, strict=True)]


def _likeliest(hidden: Tensor, weight: Tensor, batch: PackedBatch, **options: Any) -> Tensor:
    """A head (`model.qwen3_vl.Head`): the likeliest token at each place of the answers [T] int64."""
    _, details = linear_log_probs(hidden, weight, batch.targets, details=True, **options)
    return details.argmax
